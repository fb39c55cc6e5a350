"""What a user types, ``owner/repo/path@ref`` or a link -> a place in a repository; pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ..errors import ConfigurationError, InvalidRequestError, RefusedError
from ..files.contained import parts_of
from ..files.walk import shown

PUBLIC_API = "https://api.github.com"
LATEST = "latest"
MAX_SOURCE = 1000

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,38}")
_REPOSITORY = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
# What git check-ref-format(1) refuses.
_NO_REF = re.compile(
    r"[\x00-\x20\x7f-\x9f~^:?*\[\\]|\.\.|@\{|//|^[/.-]|[/.]$|/\.|\.lock(?:/|$)|^@$"
)
_SHA = re.compile(r"[0-9a-f]{40}")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Source:
    """A place in a repository.

    :ivar path: POSIX, relative to the repository's root; empty for all of it.
    :ivar ref: a branch, a tag, a commit, or ``latest``: the head of the default branch.
    :ivar is_open: whether ``path`` begins with a part of the ref. A link does not tell where a
        ref with slashes ends; only the repository knows.
    """

    owner: str
    repo: str
    path: str = ""
    ref: str = LATEST
    is_open: bool = False

    @property
    def repository(self) -> str:
        """``owner/repo``."""
        return f"{self.owner}/{self.repo}"

    def __str__(self) -> str:
        return f"{self.repository}{'/' if self.path else ''}{self.path}@{self.ref}"


def is_sha(ref: str) -> bool:
    """Tell whether a ref is a whole commit id, which never moves."""
    return _SHA.fullmatch(ref) is not None


def parse(text: str, web_url: str = "https://github.com") -> Source:
    """Read ``owner/repo[/path][@ref]``, or a link to a tree or file below ``web_url``.

    :raises InvalidRequestError: says what is wrong.
    """
    said = shown(text[:100])
    if len(text) > MAX_SOURCE or not text.isprintable():
        raise _wrong(f"'{said}' is too long, or holds a control character")
    if "://" in text:
        return _from_link(text, web_url)
    place, ref = text, LATEST
    at = text.rfind("@")
    # In packages/@scope/pdf the sign is a part of the path.
    if at > 0 and text[at - 1] != "/":
        place, ref = text[:at], text[at + 1 :]
    parts = place.split("/", 2)
    if len(parts) < 2:
        raise _wrong(f"'{said}' is no source such as 'owner/repo/path@ref'")
    return _made(parts[0], parts[1], parts[2] if len(parts) > 2 else "", ref)


def _from_link(text: str, web_url: str) -> Source:
    said = shown(text[:200])
    web = urlsplit(web_url)
    try:
        link = urlsplit(text)
        same = (link.scheme, link.netloc.lower()) == (web.scheme, web.netloc.lower())
    except ValueError:
        same = False
    if not same:
        raise _wrong(f"the link '{said}' does not begin with {web.scheme}://{web.netloc}/")
    if link.query or link.fragment:
        raise _wrong(f"the link '{said}' holds a '?' or '#', which names no place")
    parts = unquote(link.path).strip("/").split("/")
    if len(parts) == 2:
        return _made(parts[0], parts[1], "", LATEST)
    if len(parts) < 4 or parts[2] not in ("tree", "blob"):
        raise _wrong(f"the link '{said}' is not of the form owner/repo/tree/ref/path")
    owner, repo, _, ref, *rest = parts
    source = _made(owner, repo, "/".join(rest), ref)
    if is_sha(ref):
        return source
    return Source(owner, source.repo, "/".join((ref, *rest)), ref, is_open=True)


def of_manifest(upstream: str | None, version_spec: str | None, web_url: str) -> Source:
    """The place that an artifact of a manifest follows.

    :param upstream: the link to where it was fetched from, which has its path.
    :param version_spec: the ref as it was asked for.
    :raises InvalidRequestError: if there is none, or it is not of this GitHub.
    """
    link = _from_link(upstream or "", web_url)
    ref = version_spec or LATEST
    path = link.path
    if link.is_open:
        start = ref if f"{path}/".startswith(f"{ref}/") else path.partition("/")[0]
        path = path[len(start) :].lstrip("/")
    return _made(link.owner, link.repo, path, ref)


def _made(owner: str, repo: str, path: str, ref: str) -> Source:
    repo = repo.removesuffix(".git")
    if not _OWNER.fullmatch(owner):
        raise _wrong(f"'{shown(owner[:100])}' is no owner of repositories")
    if not _REPOSITORY.fullmatch(repo):
        raise _wrong(f"'{shown(repo[:100])}' is no name of a repository")
    if not ref or len(ref) > 255 or _NO_REF.search(ref):
        raise _wrong(f"'{shown(ref[:100])}' is no branch, tag or commit")
    try:
        path = "/".join(parts_of(path, "the path in the repository")) if path else ""
    except RefusedError as error:
        raise _wrong(str(error)) from None
    if path.rpartition("/")[2] == "SKILL.md":
        path = path.rpartition("/")[0]  # the skill is the folder
    return Source(owner, repo, path, ref)


def _wrong(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, [("source", message)])


def api_root(url: str) -> str:
    """Check the address of a GitHub API, and give it without a slash at its end.

    :raises ConfigurationError: if it is not https, but for this very machine, or holds more than
        a host and a path. The message does not show it, since it may hold a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", 0
    fine = (
        url.isascii()
        and url.isprintable()
        and port != 0
        and bool((_HOST.fullmatch(host) and not _is_odd_ipv4(host)) or _is_ipv6(host))
        and "@" not in parts.netloc
        and not (parts.query or parts.fragment or " " in url or "\\" in url)
        and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
    )
    if not fine:
        raise ConfigurationError(
            "the address of the GitHub API must be like 'https://ghe.example.com/api/v3': https,"
            " a host and a path"
        )
    return url.rstrip("/")


def web_root(api: str) -> str:
    """Tell where the pages of a GitHub are, of which the API is known."""
    parts = urlsplit(api)
    return f"{parts.scheme}://{parts.netloc.removeprefix('api.')}"


def is_loopback(host: str) -> bool:
    """Tell whether a host is an address of this machine, or ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_odd_ipv4(host: str) -> bool:
    """Tell whether a system would take a host for an address that is not written as one."""
    if not _NUMBER.fullmatch(host.rpartition(".")[2]):
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host
