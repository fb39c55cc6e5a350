"""The collections and databases of a run, each made once, when it is first wanted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from . import collection, job


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    :ivar small: artifacts; likewise ``middle`` and ``large``.
    :ivar rounds: of requests; a ratio is the median over them.
    :ivar populate_rounds: of populating ``middle`` artifacts.
    :ivar growth_rounds: of populating ``large`` artifacts.
    :ivar refresh_rounds: of refreshing each size.
    :ivar readers: at once, in a crowd; of as many rounds as ``crowd_rounds``.
    """

    small: int
    middle: int
    large: int
    rounds: int
    populate_rounds: int
    growth_rounds: int
    refresh_rounds: int
    readers: int
    crowd_rounds: int


FULL = Scale(
    *(1_000, 10_000, 100_000),
    rounds=30,
    populate_rounds=7,
    growth_rounds=3,
    refresh_rounds=7,
    readers=500,
    crowd_rounds=6,
)
QUICK = Scale(
    *(200, 500, 1_000),
    rounds=5,
    populate_rounds=3,
    growth_rounds=2,
    refresh_rounds=3,
    readers=50,
    crowd_rounds=1,
)


@dataclass(slots=True)
class Workspace:
    """A folder for one run.

    :ivar say: tells somebody who waits what is going on.
    """

    folder: Path
    scale: Scale
    say: Callable[[str], None]
    _databases: dict[int, Path] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)

    def collection(self, size: int) -> Path:
        """A collection of ``size`` artifacts."""
        root = self.folder / f"collection-{size}"
        if not root.exists():
            self.say(f"writing {size:,} artifacts")
            collection.write(root, size)
        return root

    def database(self, size: int) -> Path:
        """A database that the collection of ``size`` artifacts has been read into."""
        if size not in self._databases:
            self.populate(size)
        return self._databases[size]

    def copy(self, size: int) -> Path:
        """A copy of :meth:`database`, to be changed."""
        database = self.new_database()
        with (
            closing(sqlite3.connect(self.database(size))) as source,
            closing(sqlite3.connect(database)) as target,
        ):
            source.backup(target)
        return database

    def populate(self, size: int) -> job.Job:
        """Read the collection of ``size`` artifacts into a new database, and keep that."""
        database = self.new_database()
        done = job.run("populate", self.collection(size), database)
        replaced = self._databases.get(size)
        self._databases[size] = database
        if replaced is not None:
            self.discard(replaced)
        return done

    def floor(self, size: int) -> job.Job:
        """The least that reading the collection of ``size`` artifacts can cost."""
        database = self.new_database()
        done = job.run("floor", self.collection(size), database)
        self.discard(database)
        return done

    def new_database(self) -> Path:
        """Where a database can be made."""
        return self.folder / f"{next(self._numbers)}.db"

    def discard(self, database: Path) -> None:
        """Delete a database and what SQLite keeps beside it."""
        for file in database.parent.glob(f"{database.name}*"):
            file.unlink()
