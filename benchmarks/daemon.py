"""The daemon: what a poll costs beside a bare walk, and what the process takes while idle."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from .measure import Ratio, Row, duration
from .server import FOLDER
from .workspace import Workspace

INTERVAL_S = 5.0
# What idling may cost, in times of a bare walk at the same interval: 1.5 % of a core where that
# walk takes 4.4 us a file, which is where the aim was set. Systems differ by three in that time.
IDLE_BUDGET = 1.5 / (10_000 * 4.4e-6 / INTERVAL_S * 100)

# The second is not to cost more than the walk that it saves.
POLLS = {"one poll that lists all folders": 1.5, "one poll of what has not changed": 1.0}


class _Handler(BaseHTTPRequestHandler):
    """An app that acknowledges everything at once."""

    protocol_version = "HTTP/1.1"
    server: _App

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(time.monotonic())
        data = json.dumps({"refresh_id": "0" * 32, "artifacts_refreshed": 1}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class _App(HTTPServer):
    asked: list[float]


@contextmanager
def _app() -> Iterator[_App]:
    app = _App(("127.0.0.1", 0), _Handler)
    app.asked = []
    thread = threading.Thread(target=app.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield app
    finally:
        app.shutdown()
        app.server_close()


def daemon(workspace: Workspace) -> list[Row]:
    """A poll at each size, and the process at two of them."""
    middle, large = workspace.scale.middle, workspace.scale.large
    rows = []
    walks_s = {}
    for size, rounds in ((middle, workspace.scale.rounds), (large, workspace.scale.rounds // 4)):
        workspace.say(f"polling {size:,} files")
        polls = _polls(workspace.collection(size), max(3, rounds))
        for (work, budget), ratio in zip(POLLS.items(), polls, strict=True):
            rows.append(Row(f"{work}, {size:,} files", ratio.median, budget, detail=ratio.detail))
        walks_s[size] = statistics.median(polls[0].floor_s)
    for size, budget_mb in ((middle, 40), (large, 90)):
        workspace.say(f"running the daemon on {size:,} files")
        # Long enough that all folders are listed once.
        idle_s = 12 * INTERVAL_S if workspace.scale.rounds > 10 else INTERVAL_S
        cpu, rss_mb, started_s, poll_s = _process(workspace.collection(size), idle_s)
        walk = walks_s[size] / INTERVAL_S * 100
        if size == middle:
            detail = f"{cpu:.1f} % of a core, the walk alone {walk:.1f} %"
            work = f"CPU while idle, {size:,} files, to a bare walk each {INTERVAL_S:.0f} s"
            rows.append(Row(work, cpu / walk, IDLE_BUDGET, detail=detail))
        detail = f"{cpu:.1f} % in {idle_s:.0f} s, a look every {INTERVAL_S:.0f} s"
        budget = 1.5 if size == middle else None
        rows.append(Row(f"CPU while idle, {size:,} files", cpu, budget, "% of a core", detail))
        rows += [
            Row(f"memory of the daemon, {size:,} files", rss_mb, budget_mb, "MB"),
            Row(
                f"start to the end of the first look, {size:,} files",
                started_s * 1000,
                300 if size == middle else None,
                "ms",
                f"the look itself {duration(poll_s)}",
            ),
        ]
    return rows


def _polls(root: Path, rounds: int) -> list[Ratio]:
    """What each kind of poll costs beside a bare walk."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(root), str(rounds)],
        cwd=FOLDER,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        check=True,
    )
    floor_s, whole_s, quiet_s = map(tuple, json.loads(done.stdout))
    return [Ratio(floor_s, whole_s), Ratio(floor_s, quiet_s)]


def _process(root: Path, idle_s: float) -> tuple[float, float, float, float]:
    """CPU in per cent, memory in MB, seconds to the first request, seconds of a look."""
    with _app() as app, tempfile.TemporaryDirectory() as state:
        status = Path(state) / "status.json"
        started = time.monotonic()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "artifact_cache_daemon"),
                *("--api-url", f"http://127.0.0.1:{app.server_port}"),
                *("--collection", f"bench={root}", "--interval", str(INTERVAL_S)),
                *("--state-dir", state, "--status-file", str(status)),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.DEVNULL,
        )
        try:
            while not app.asked:
                time.sleep(0.002)
            first_s = app.asked[0] - started
            # The first save of the state is behind it then, and so are the looks that it takes
            # until folders that do not change need not be listed any more.
            time.sleep(4.5 * INTERVAL_S)
            before = _cpu_s(process.pid)
            time.sleep(idle_s)
            cpu = (_cpu_s(process.pid) - before) / idle_s * 100
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            rss_mb = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            [collection] = json.loads(status.read_text())["collections"]
        finally:
            process.terminate()
            process.wait(10)
    return cpu, rss_mb, first_s, collection["poll_seconds"]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _bare(root: str) -> int:
    """The least that looking at every file can cost."""
    count = 0
    stack = [root]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)
                    count += 1
    return count


def main() -> None:
    """Poll and walk by turns; print the seconds of each."""
    from artifact_cache_daemon.evidence import COARSE_S, Known, Walk
    from artifact_cache_daemon.glance import Glance
    from artifact_cache_daemon.watcher import compare

    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("rounds", type=int)
    arguments = parser.parse_args()
    known = Known(dict(Walk(arguments.root)))

    def poll() -> None:
        walk = Walk(arguments.root)
        changes, _ = compare(known, walk, walk.hides)
        if changes:
            raise RuntimeError("nothing was to change")

    now = 0.0
    glance = Glance(arguments.root, clock=lambda: now)
    for _ in range(2):
        walk = Walk(arguments.root)
        changes, _ = compare(known, walk, walk.hides)
        glance.remember(walk, now, agrees=not changes)
        now += COARSE_S

    def quiet() -> None:
        if not glance.agrees(known):
            raise RuntimeError("nothing was to change")

    times: list[list[float]] = [[], [], []]
    for _ in range(arguments.rounds):
        for one, work in zip(times, (lambda: _bare(arguments.root), poll, quiet), strict=True):
            taken = []
            for _ in range(3):
                begun = time.perf_counter()
                work()
                taken.append(time.perf_counter() - begun)
            one.append(statistics.median(taken))
    print(json.dumps(times))


if __name__ == "__main__":
    main()
