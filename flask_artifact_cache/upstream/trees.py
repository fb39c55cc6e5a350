"""What a repository lists -> the files of an artifact, or a refusal; pure."""

from __future__ import annotations

import hashlib
import re
import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..errors import InvalidRequestError, NotFoundError, RefusedError, UpstreamError
from ..files.contained import check_name, folded, parts_of
from ..files.layouts import CONTAINERS
from ..files.walk import shown

FOLDER, LINK, SUBMODULE = "040000", "120000", "160000"
EXECUTABLE = "100755"


@dataclass(frozen=True, slots=True)
class Limits:
    """How large an artifact may be that is fetched, and an archive that it is taken from.

    :ivar blobs: how many files of a commit are asked for one by one, at most, where its archive
        is too large or lacks them.
    :ivar archive_ratio: what is so many times smaller than what it unpacks to is no archive of a
        repository but a bomb.
    """

    files: int = 10_000
    bytes: int = 256 << 20
    file_bytes: int = 100 << 20
    depth: int = 40
    archive_bytes: int = 512 << 20
    archive_entries: int = 200_000
    archive_ratio: int = 50
    blobs: int = 200
    listing_entries: int = 500_000


@dataclass(frozen=True, slots=True)
class Node:
    """An object in a tree, as GitHub lists it; nothing of it is trusted yet."""

    path: str
    mode: str
    sha: str
    size: int = 0


class Tree(dict[str, Node]):
    """The nodes of a commit by path, as far as they are listed.

    :ivar unlisted: the ids, by path, of the folders of which what is in them is not known; empty
        where it cannot be.
    """

    def __init__(self, nodes: Iterable[Node] = (), unlisted: Mapping[str, str] | None = None):
        super().__init__((node.path, node) for node in nodes)
        self.unlisted = dict(unlisted or {})
        self.lock = threading.Lock()  # of whoever lists more

    def add(self, nodes: Iterable[Node], *, are_whole: bool) -> None:
        """Add what a listing says.

        :param are_whole: whether it holds all that is in its folders, too.
        """
        for node in nodes:
            self[node.path] = node
            if node.mode == FOLDER and not are_whole:
                self.unlisted[node.path] = node.sha
        self.__dict__.pop("_order", None)

    def unlisted_below(self, path: str) -> Iterable[str]:
        """The folder itself and those in it, as far as what is in them is not known."""
        start = f"{path}/" if path else ""
        return (one for one in self.unlisted if f"{one}/".startswith(start))

    @cached_property
    def _order(self) -> list[str]:
        return sorted(self)

    def below(self, path: str) -> Iterable[str]:
        """The paths of all that is in a folder; ``path`` is empty for the root."""
        start = f"{path}/" if path else ""
        for index in range(bisect_left(self._order, start), len(self._order)):
            if not self._order[index].startswith(start):
                return
            yield self._order[index]


@dataclass(frozen=True, slots=True)
class Found:
    """The place of an artifact in a tree: its node, and its files by path relative to it."""

    type: str
    name: str
    path: str
    files: Mapping[str, Node]


def nodes(listing: object, above: str = "") -> Iterable[Node]:
    """Read what GitHub answers.

    :raises UpstreamError: if it is not a listing.
    """
    tree = listing.get("tree") if isinstance(listing, dict) else None
    if not isinstance(tree, list):
        raise UpstreamError("GitHub's listing of a tree is none", "invalid")
    for one in tree:
        fields = one if isinstance(one, dict) else {}
        path, mode, sha = fields.get("path"), fields.get("mode"), fields.get("sha")
        size = fields.get("size", 0)
        if not (isinstance(path, str) and isinstance(mode, str) and isinstance(sha, str)):
            raise UpstreamError("GitHub's listing of a tree is none", "invalid")
        if not re.fullmatch("[0-9a-f]{40}", sha):
            raise UpstreamError("GitHub's listing of a tree holds what is no id", "invalid")
        yield Node(above + path, mode, sha, size if isinstance(size, int) else 0)


def find(
    tree: Tree,
    path: str,
    repository: str,
    limits: Limits,
    type_: str | None = None,
    name: str | None = None,
) -> Found:
    """Find the artifact at ``path``; the empty path is the repository as a whole.

    :raises NotFoundError: if there is nothing.
    :raises InvalidRequestError: if it does not tell what it is.
    :raises RefusedError: if it could do harm.
    """
    if path and path not in tree and path + ".md" in tree:
        path += ".md"
    said = shown(path) or "its root"
    if path and path not in tree:
        near = sorted(one for one in tree if one.endswith("/" + path))[:3]
        also = f"; did you mean {' or '.join(map(shown, near))}?" if near else ""
        raise NotFoundError(f"{repository} has no '{said}'{also}")
    is_folder = not path or tree[path].mode == FOLDER
    if type_ is None:
        above = path.split("/")[-2:-1]
        if is_folder and f"{path}/SKILL.md".lstrip("/") in tree:
            type_ = "skill"
        elif not is_folder and above and above[0] in CONTAINERS:
            type_ = CONTAINERS[above[0]]
        else:
            raise InvalidRequestError(f"say with '--type' what '{said}' of {repository} is")
    if is_folder != (type_ == "skill"):
        wanted = "a folder" if type_ == "skill" else "a file"
        raise InvalidRequestError(f"'{said}' is not {wanted}, as a {type_} has to be")
    last = path.rpartition("/")[2] or repository.rpartition("/")[2]
    if not is_folder:
        chosen = {last: tree[path]}
    else:
        start = path + "/" if path else ""
        chosen = {
            one[len(start) :]: node
            for one in tree.below(path)
            if (node := tree[one]).mode != FOLDER
        }
    _check(chosen, limits)
    return Found(type_, check_name(name or (last if is_folder else _stem(last))), path, chosen)


def _stem(name: str) -> str:
    return name[:-3] if name.lower().endswith(".md") else name


def _check(files: Mapping[str, Node], limits: Limits) -> None:
    """Refuse what cannot lie in a folder everywhere, or leads out of it."""
    if len(files) > limits.files:
        raise RefusedError(f"the source has over {limits.files} files")
    if sum(node.size for node in files.values()) > limits.bytes:
        raise RefusedError(f"the source has over {limits.bytes} bytes")
    known: dict[str, str] = {}
    for path, node in files.items():
        said = shown(path[:200])
        parts = parts_of(path, "in the source, the path")
        if node.mode == LINK:
            raise RefusedError(f"in the source, '{said}' is a link, which is not followed")
        if node.mode == SUBMODULE:
            raise RefusedError(f"in the source, '{said}' is a submodule, which is not fetched")
        if not node.mode.startswith("100"):
            raise RefusedError(f"in the source, '{said}' is neither a file nor a folder")
        if len(parts) > limits.depth:
            raise RefusedError(f"the source is more than {limits.depth} folders deep")
        if node.size > limits.file_bytes:
            raise RefusedError(f"in the source, '{said}' has over {limits.file_bytes} bytes")
        for end in range(1, len(parts) + 1):
            here = "/".join(parts[:end])
            if folded(parts[end - 1]) == ".git":
                raise RefusedError(f"in the source, '{said}' lies in a folder of git")
            same = known.setdefault(folded(here), here)
            if same != here:
                text = f"in the source, '{shown(here)}' and '{shown(same)}' differ by case alone"
                raise RefusedError(text)


def object_at(tree: Tree, path: str) -> str:
    """The id of the object at ``path``, as far as it tells one content from another; else empty."""
    node = tree.get(path) or tree.get(path + ".md")
    if node is not None:
        return node.sha
    return "" if path else "root"


def blob_sha(data: bytes) -> str:
    """The id that git gives to a file's contents."""
    hasher = hashlib.sha1(b"blob %d\x00" % len(data), usedforsecurity=False)
    hasher.update(data)
    return hasher.hexdigest()
