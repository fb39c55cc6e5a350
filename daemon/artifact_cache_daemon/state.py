"""What must survive a restart: what the app has acknowledged, one file for each collection.

It is written now and then. Losing the last of it costs telling the app a few things twice; so
whatever is not right with a file, the collection is refreshed as a whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .evidence import WIDTH, Files, Known

VERSION = 1


class LockedError(Exception):
    """Another daemon uses the same state."""


@dataclass(slots=True)
class State:
    """What is known of a collection.

    :ivar key: what the state is about; for another root or another app it says nothing.
    :ivar device: of the root.
    :ivar again: paths that are to be told once more.
    :ivar everything_again: whether all are.
    """

    key: dict[str, str]
    acknowledged: Known
    device: int | None = None
    again: set[str] = field(default_factory=set)
    everything_again: bool = False


class Store:
    """A folder with the state of every collection, for one daemon at a time."""

    def __init__(self, folder: Path) -> None:
        """Take the folder.

        :raises LockedError: if another daemon has it.
        :raises OSError: if it cannot be made or written to.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        # The kernel lets go of it when we end, however we end.
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
            os.close(self._lock)
            process = f" (process {holder})" if holder.isdigit() else ""
            raise LockedError(
                f"another artifact-cache-daemon{process} uses the state in {folder};"
                " give this one a --state-dir of its own"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Let the next daemon have it."""
        os.close(self._lock)

    def load(self, collection_id: str, key: dict[str, str]) -> State | None:
        """What was saved about a collection; None if there is nothing that can be relied on."""
        try:
            with self._file(collection_id).open("rb") as lines:
                state = _read(lines, key)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if state is not None:
            self._add_told(collection_id, state)
        return state

    def note(self, collection_id: str, paths: list[str] | None) -> None:
        """Remember what the app is about to be told, until the next :meth:`save`.

        Nobody knows what it took in if we are killed before it answers, or before that is saved.

        :param paths: None means everything.
        :raises OSError: if that cannot be done.
        """
        with self._told(collection_id).open("ab") as out:
            out.write(json.dumps(paths).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())

    def save(self, collection_id: str, state: State) -> None:
        """Replace what was saved about a collection; a crash leaves the old or the new.

        :raises OSError: if that cannot be done; the old is left.
        """
        file = self._file(collection_id)
        new = file.with_suffix(".new")
        try:
            with new.open("wb") as out:
                checksum = hashlib.blake2b(digest_size=16)
                for line in _lines(state):
                    checksum.update(line)
                    out.write(line)
                out.write(json.dumps({"checksum": checksum.hexdigest()}).encode() + b"\n")
                out.flush()
                os.fsync(out.fileno())
            new.replace(file)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        with contextlib.suppress(OSError):
            self._told(collection_id).unlink()
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _add_told(self, collection_id: str, state: State) -> None:
        try:
            with self._told(collection_id).open("rb") as lines:
                for line in lines:
                    paths = json.loads(line)
                    if paths is None:
                        state.everything_again = True
                    else:
                        state.again.update(map(str, paths))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, RecursionError):
            # Half a line was never told. Whatever else is wrong: everything covers it.
            state.everything_again = True

    def _told(self, collection_id: str) -> Path:
        return self.folder / f"{collection_id}.told"

    def _file(self, collection_id: str) -> Path:
        return self.folder / f"{collection_id}.state"


def _lines(state: State) -> Iterator[bytes]:
    header = {
        "version": VERSION,
        "key": state.key,
        "device": state.device,
        "again": sorted(state.again),
        "folders": len(state.acknowledged.folders),
    }
    yield json.dumps(header).encode() + b"\n"
    for folder, files in state.acknowledged.folders.items():
        yield json.dumps([folder, *files], separators=(",", ":")).encode() + b"\n"


def _read(lines: Any, key: dict[str, str]) -> State | None:
    first = lines.readline()
    checksum = hashlib.blake2b(first, digest_size=16)
    header = json.loads(first)
    if header["version"] != VERSION or header["key"] != key:
        return None
    folders: dict[str, Files] = {}
    names: dict[str, str] = {}
    for _ in range(header["folders"]):
        line = lines.readline()
        checksum.update(line)
        folder, *files = json.loads(line)
        # One string for all the files that share a name, as after a look.
        files[::WIDTH] = [names.setdefault(name, name) for name in files[::WIDTH]]
        for index in range(3, len(files), WIDTH):
            if files[index] == files[index - 1]:
                files[index] = files[index - 1]
        folders[folder] = tuple(files)
    if json.loads(lines.readline()) != {"checksum": checksum.hexdigest()}:
        return None
    return State(key, Known(folders), header["device"], set(header["again"]))
