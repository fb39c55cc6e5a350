"""A GitHub of our own on loopback: repositories, ETags, limits, redirects, and all that fails."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
import time
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "github_pat_of_the_tests"
NOW = 1_790_000_000


def sha1(kind, data):
    return hashlib.sha1(kind.encode() + b" %d\0" % len(data) + data).hexdigest()


class Repository:
    """Commits of files; a file is bytes, or (mode, bytes)."""

    def __init__(self, files):
        self.commits, self.refs, self.is_private = {}, {}, False
        self.altered = {}  # path -> what an archive holds instead (export-subst)
        self.commit(files)

    def commit(self, files, ref="main"):
        nodes = {}
        for path, data in files.items():
            mode, data = data if isinstance(data, tuple) else ("100644", data)
            nodes[path] = (mode, sha1("blob", data), data)
        sha = sha1("commit", repr((len(self.commits), sorted(files))).encode())
        self.commits[sha] = nodes
        self.refs[ref] = sha
        self._listings = {}
        return sha

    def tree(self, sha):
        """Path -> (mode, sha, size, folder's sha or own) of a commit, with folders."""
        if sha not in self._listings:
            found = {}
            nodes = self.commits[sha]
            for path, (mode, blob, data) in nodes.items():
                found[path] = (mode, blob, len(data))
            folders = {}
            for path, (mode, blob, _) in nodes.items():
                parts = path.split("/")
                for end in range(1, len(parts)):
                    folders.setdefault("/".join(parts[:end]), []).append((path, mode, blob))
            for folder, inside in folders.items():
                if folder:
                    found[folder] = ("040000", sha1("tree", repr((folder, inside)).encode()), None)
            self._listings[sha] = found
        return self._listings[sha]


class FakeGitHub:
    """:ivar failures: functions of a handler, used up one for each request; True if it answered.

    :ivar truncate: how many entries a recursive listing may have.
    :ivar truncate_folder: how many any other may have.
    """

    def __init__(self, base_path=""):
        self.repos, self.renamed, self.by_id = {}, {}, {}
        self.base_path, self.truncate, self.truncate_folder = base_path, 100_000, 100_000
        self.limit, self.used = 5000, 0
        self.tokens = {TOKEN}
        self.calls, self.log, self.failures = Counter(), [], deque()
        self.busy, self.most_busy = 0, 0
        self.delay_s = 0.0
        self.archive_to = None  # where tarballs are redirected to, when it is not the archive host
        self.lock = threading.Lock()
        self._servers = [self._serve("api"), self._serve("archive")]
        self.host, self.archive_host = (f"127.0.0.1:{one.server_port}" for one in self._servers)
        self.url = f"http://{self.host}{base_path}"

    def _serve(self, kind):
        handler = type("Handler", (_Handler,), {"fake": self, "kind": kind})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def close(self):
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def fail(self, *failures):
        self.failures.extend(failures)

    def forget(self):
        self.calls.clear()
        self.log.clear()
        self.used = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        fake = self.fake
        self.is_busy = True
        with fake.lock:
            fake.busy += 1
            fake.most_busy = max(fake.most_busy, fake.busy)
            failure = fake.failures.popleft() if fake.failures else None
            fake.log.append((self.kind, self.path, self.headers.get("Authorization")))
        try:
            if fake.delay_s:
                time.sleep(fake.delay_s)
            if failure is None or not failure(self):
                self.answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self.rest()

    def rest(self):
        """Be busy no more; before the answer, or its reader could ask again while this one is."""
        with self.fake.lock:
            self.fake.busy -= self.is_busy
        self.is_busy = False

    def send(self, status, body=b"", headers=(), kind="application/json", cut=0):
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        fake = self.fake
        self.send_response_only(status)
        names = {name.lower() for name, _ in headers}
        quota = {
            "Date": self.date_time_string(NOW),
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "X-RateLimit-Limit": str(fake.limit),
            "X-RateLimit-Remaining": str(max(fake.limit - fake.used, 0)),
            "X-RateLimit-Reset": str(NOW + 1800),
        }
        for name, value in [
            *((n, v) for n, v in quota.items() if n.lower() not in names),
            *headers,
        ]:
            self.send_header(name, value)
        self.rest()
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])
        if cut:
            self.close_connection = True

    def answer(self):
        fake = self.fake
        parts = urlsplit(self.path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in fake.tokens:
            return self.count("401", 401, {"message": "Bad credentials"})
        if self.kind == "archive" or parts.path.split("/")[3:4] == ["legacy.tar.gz"]:
            return self.archive(parts, token)
        if not parts.path.startswith(fake.base_path + "/"):
            return self.count("404", 404, {"message": "Not Found"})
        if fake.used >= fake.limit:
            return self.count("limited", 403, {"message": "API rate limit exceeded for user."})
        steps = unquote(parts.path[len(fake.base_path) + 1 :]).split("/")
        if steps[0] == "repositories" and steps[1] in fake.by_id:
            name, rest = fake.by_id[steps[1]], steps[2:]
        else:
            name, rest = "/".join(steps[1:3]), steps[3:]
        if name in fake.renamed:
            number = fake.renamed[name]
            to = "/".join(
                [f"{fake.url}/repositories/{number}", *parts.path.split("/")[-len(rest) :]]
            )
            to = f"{fake.url}/repositories/{number}" if not rest else to
            query = f"?{parts.query}" if parts.query else ""
            return self.count("301", 301, {"message": "Moved"}, [("Location", to + query)])
        repo = fake.repos.get(name)
        if repo is None or (repo.is_private and not token):
            return self.count("404", 404, {"message": "Not Found"})
        return self.about(repo, name, rest, parse_qs(parts.query), token)

    def count(self, what, status, body=b"", headers=(), kind="application/json", costs=True):
        with self.fake.lock:
            self.fake.calls[what] += 1
            self.fake.used += costs
        self.send(status, body, headers, kind)

    def about(self, repo, name, rest, query, token):
        match rest:
            case []:
                return self.count("repo", 200, {"full_name": name})
            case ["commits", *ref]:
                ref = "/".join(ref)
                sha = repo.refs.get("main" if ref == "HEAD" else ref)
                sha = sha or (ref if ref in repo.commits else None)
                if sha is None:
                    message = f"No commit found for SHA: {ref}"
                    return self.count("422", 422, {"message": message})
                # As on GitHub, another credential is shown another ETag.
                etag = '"' + hashlib.sha256((sha + token).encode()).hexdigest() + '"'
                if self.headers.get("If-None-Match") == etag:
                    return self.count("304", 304, headers=[("ETag", etag)], costs=not token)
                assert self.headers["Accept"] == "application/vnd.github.sha"
                return self.count("head", 200, sha.encode(), [("ETag", etag)], "text/plain")
            case ["git", "matching-refs", kind, *start]:
                refs = [
                    {"ref": f"refs/{kind}/{one}"}
                    for one in repo.refs
                    if kind == "heads" and one.startswith("/".join(start))
                ]
                return self.count("refs", 200, refs)
            case ["git", "trees", sha]:
                return self.tree(repo, sha, "recursive" in query)
            case ["git", "blobs", sha]:
                for nodes in repo.commits.values():
                    for _, blob, data in nodes.values():
                        if blob == sha:
                            return self.count("blob", 200, data, kind="application/octet-stream")
            case ["tarball", sha]:
                host = self.fake.archive_to or f"http://{self.fake.archive_host}"
                to = f"{host}/{name}/legacy.tar.gz/{sha}"
                return self.count("tarball", 302, headers=[("Location", to)])
        return self.count("404", 404, {"message": "Not Found"})

    def tree(self, repo, sha, recursive):
        start, commit = None, None
        if sha in repo.commits:
            start, commit = "", sha
        for one in repo.commits if start is None else ():
            for path, (_, found, _) in repo.tree(one).items():
                if found == sha:
                    start, commit = path + "/", one
        if start is None:
            return self.count("404", 404, {"message": "Not Found"})
        listing = []
        for path, (mode, found, size) in repo.tree(commit).items():
            inside = path[len(start) :]
            if path.startswith(start) and (recursive or "/" not in inside):
                kind = "tree" if mode == "040000" else "blob"
                node = {"path": inside, "mode": mode, "type": kind, "sha": found}
                listing.append(node if size is None else {**node, "size": size})
        limit = self.fake.truncate if recursive else self.fake.truncate_folder
        is_cut = len(listing) > limit
        body = {"sha": sha, "tree": listing[:limit]}
        return self.count("tree", 200, {**body, "truncated": is_cut})

    def archive(self, parts, token):
        owner, name, _, sha = parts.path.strip("/").split("/")
        repo = self.fake.repos[f"{owner}/{name}"]
        if repo.is_private and not token:
            return self.send(404)
        with self.fake.lock:
            self.fake.calls["archive"] += 1
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, (_, _, data) in repo.commits[sha].items():
                data = repo.altered.get(path, data)
                if data is None:
                    continue
                info = tarfile.TarInfo(f"{owner}-{name}-{sha[:7]}/{path}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            for info, data in getattr(repo, "hostile", ()):
                archive.addfile(info, io.BytesIO(data))
        return self.send(200, gzip.compress(buffer.getvalue(), 1), kind="application/x-gzip")


# --- failures ------------------------------------------------------------------------------------


def status(number, message="", cut=0, **headers):
    """Answer with a status once."""

    def failure(handler):
        names = [(name.replace("_", "-"), value) for name, value in headers.items()]
        handler.send(number, {"message": message}, names, cut=cut)
        return True

    return failure


def answering(body, cut=0):
    """Answer with a body once."""

    def failure(handler):
        handler.send(200, body, cut=cut)
        return True

    return failure


def truncated(handler):
    """Break off in the middle of a body."""
    handler.send(200, b"x" * 100, cut=50)
    return True


def dropped(handler):
    """Close the connection without an answer."""
    handler.close_connection = True
    return True


def redirect(to, number=302):
    def failure(handler):
        handler.send(number, headers=[("Location", to)])
        return True

    return failure


def slow(event):
    """Answer only when ``event`` is set."""

    def failure(handler):
        event.wait(30)
        handler.close_connection = True
        return True

    return failure


def dripping(tick, head=b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"):
    """Answer byte by byte, with a ``tick`` after each, until nobody listens any more.

    :param head: what comes at once; where it does not end, the headers do not either.
    """

    def failure(handler):
        handler.close_connection = True
        handler.wfile.write(head)
        for _ in range(1_000_000 - 1):
            handler.wfile.write(b"x")
            tick()
        return True

    return failure


class WatchedClock:
    """Seconds that pass by nine, and no further until somebody has looked.

    A server that moved the clock of its clients as fast as it can write would be years ahead of one
    that has not read a byte.
    """

    def __init__(self, clock):
        self._clock, self._looks, self._looked = clock, 0, threading.Condition()

    def __call__(self):
        with self._looked:
            self._looks += 1
            self._looked.notify_all()
            return self._clock().timestamp()

    def tick(self):
        with self._looked:
            self._clock.pass_(seconds=9)
            seen = self._looks
            # Who has gone looks no more: the next byte finds that out.
            self._looked.wait_for(lambda: self._looks > seen, timeout=1)
