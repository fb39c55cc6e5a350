"""What is wrong with an installation, and what to do about it: facts are gathered, then judged."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import URL, func, select
from sqlalchemy.exc import SQLAlchemyError

from .database import ANEW, UPGRADE, advice, current, engine_of, missing, newest
from .errors import ConfigurationError, SchemaError
from .files.problems import hint
from .files.staging import left_over
from .freshness import CLOCK_TOLERANCE, isoformat
from .models import Artifact, Collection, RefreshRun
from .refresh.lease import LEASE_MS, now_ms
from .stats import Stats

OK, WARNING, ERROR = "ok", "warning", "error"

# More tokens than this are likely to be old ones that nobody has taken out.
MANY_TOKENS = 10
# The daemon looks at everything this often, unless it is told otherwise; and some patience.
FULL_INTERVAL = timedelta(minutes=30)
PATIENCE = timedelta(minutes=5)
LONG_RUN = timedelta(hours=1)
STALE_PERCENT = 10
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|glusterfs|lustre|gpfs|ocfs2|gfs2|davfs\d?|vboxsf|virtiofs"
    r"|fuse\.(sshfs|s3fs|rclone|glusterfs\w*|cephfs|davfs\w*)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing, and how bad it is.

    :ivar severity: ``ok``, ``warning`` or ``error``.
    """

    check: str
    severity: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the judgement is made from.

    :ivar roots: what is wrong with each collection's folder: ``""``, ``missing``, ``unreadable``
        or ``empty``.
    :ivar left: folders of each collection in which is what a change has moved, and not put back.
    :ivar limiter: ``off``, ``memory``, ``shared``, ``down``, or a sentence that says why there is
        none.
    :ivar workers: of the server, where that can be told.
    :ivar may_change: whether there is an ``authorize``.
    :ivar has_celery: whether the app has a Celery in its extensions.
    :ivar revision: of the tables; None: there are none, or they are the host's to look after.
    :ivar wanted: the revision of this version; None: the tables are the host's to look after.
    :ivar missing: what is not there of our tables; see :func:`.database.missing`.
    :ivar journal_mode: of SQLite; None: it is another database.
    :ivar file_system: of SQLite's file, as the system calls it; None: unknown.
    :ivar stats: None, and so are the rest, where the database does not tell.
    :ivar latest_sync: the latest time at which any artifact is said to have been compared.
    :ivar clock_ahead_s: how far the app's clock is ahead of the database's.
    :ivar leases_ms: for how long the lease of each collection goes on.
    :ivar long_runs: since when refreshes go on that should have ended.
    """

    roots: Mapping[str, str]
    tokens: int
    may_change: bool
    background: str
    limiter: str
    workers: int | None
    answers: bool
    revision: str | None
    wanted: str | None
    journal_mode: str | None
    file_system: str | None
    missing: Sequence[str] = ()
    left: Mapping[str, Sequence[str]] = field(default_factory=dict)
    has_celery: bool = False
    stats: Stats | None = None
    latest_sync: datetime | None = None
    clock_ahead_s: float = 0.0
    leases_ms: Mapping[str, int] | None = None
    long_runs: Mapping[str, datetime] | None = None


Found = Iterator[tuple[str, str]]


def examine(facts: Facts) -> list[Finding]:
    """Everything that there is to say, in the order in which to look at it; pure."""
    findings = []
    for name, (check, all_well) in CHECKS.items():
        if facts.stats is None and check in _OF_ROWS:
            continue
        found = list(check(facts)) or [(OK, all_well)]
        findings += [Finding(name, severity, message) for severity, message in found]
    return findings


# --- checks --------------------------------------------------------------------------------------


def _configuration(facts: Facts) -> Found:
    if not facts.roots:
        yield ERROR, "No collection is configured; set ARTIFACT_CACHE_COLLECTIONS to a folder."


def _roots(facts: Facts) -> Found:
    for one, wrong in facts.roots.items():
        if wrong == "missing":
            yield ERROR, f"The folder of '{one}' is not there; mount it, or mend its path."
        elif wrong == "unreadable":
            yield ERROR, f"The folder of '{one}' cannot be read; let the app's user read it."
        elif wrong == "empty":
            yield WARNING, f"The folder of '{one}' is empty; is something not mounted there?"


def _left(facts: Facts) -> Found:
    for one, folders in facts.left.items():
        for folder in folders:
            yield (
                WARNING,
                f"'{folder}' of '{one}' holds what a change has moved and not put back. The next"
                " change does so; what stays has something else in its place by now: take out what"
                " is worth keeping, then delete the folder.",
            )


def _database(facts: Facts) -> Found:
    if not facts.answers:
        yield ERROR, "The database does not answer; look at SQLALCHEMY_DATABASE_URI and its server."
    elif facts.wanted is not None and facts.revision is None:
        yield ERROR, f"The tables are missing. {UPGRADE}"
    elif facts.wanted is not None and facts.revision != facts.wanted:
        does = advice(facts.revision)
        yield ERROR, f"The tables are at {facts.revision}, not at {facts.wanted}. {does}"
    elif facts.wanted is not None and facts.missing:
        absent = ", ".join(facts.missing)
        yield ERROR, f"The tables are at {facts.revision}, but these are missing: {absent}. {ANEW}"
    elif facts.wanted is None and facts.stats is None:
        yield ERROR, "The tables are missing. Run 'flask db migrate' and 'flask db upgrade'."


def _journal(facts: Facts) -> Found:
    return _journal_of(facts.journal_mode, facts.file_system)


def _journal_of(mode: str | None, on: str | None) -> Found:
    if mode is None:
        return
    if on is not None and NETWORK.fullmatch(on):
        where = f"SQLite's file is on a network file system ({on})"
        if mode == "wal":
            yield (
                ERROR,
                f"{where} in WAL mode, which loses data there; move it to a local disk.",
            )
        else:
            yield WARNING, f"{where}, whose locks are not to be relied on; move it to a local disk."
    elif mode == "memory":
        yield WARNING, "The database is in memory: it ends with the process, and has no background."
    elif mode != "wal":
        yield (
            WARNING,
            f"SQLite's journal mode is '{mode}', so readers wait for a refresh that writes;"
            " run 'PRAGMA journal_mode=WAL' once.",
        )


def _limiter(facts: Facts) -> Found:
    if facts.limiter == "off":
        yield WARNING, "The changing routes have no limit; set ARTIFACT_CACHE_REFRESH_LIMIT."
    elif facts.limiter == "down":
        yield (
            ERROR,
            "The storage of the rate limits does not answer, so changing routes may answer 503;"
            " look at RATELIMIT_STORAGE_URI.",
        )
    elif facts.limiter == "memory":
        if facts.workers != 1:
            those = "several" if facts.workers is None else str(facts.workers)
            condition = "with several workers" if facts.workers is None else f"and {those} workers"
            yield (
                WARNING,
                f"Rate limits are counted in memory (memory://), {condition} by each for itself;"
                " set RATELIMIT_STORAGE_URI to 'redis://…'.",
            )
    elif facts.limiter != "shared":
        yield ERROR, facts.limiter


def _tokens(facts: Facts) -> Found:
    if not facts.tokens and not facts.may_change:
        yield (
            WARNING,
            "There is neither a token nor an 'authorize', so neither the daemon nor anybody else"
            " can change anything by HTTP; set ARTIFACT_CACHE_TOKENS.",
        )
    elif facts.tokens > MANY_TOKENS:
        yield WARNING, f"{facts.tokens} tokens are valid; take out those that nobody uses any more."


def _background(facts: Facts) -> Found:
    if facts.background == "none":
        yield (
            WARNING,
            "ARTIFACT_CACHE_BACKGROUND is 'none': nothing is refreshed unless somebody waits for"
            " it; run the daemon, or 'flask artifact-cache refresh' regularly.",
        )
    elif facts.background == "celery" and not facts.has_celery:
        yield (
            ERROR,
            "ARTIFACT_CACHE_BACKGROUND is 'celery', but app.extensions has no 'celery'; put it"
            " there, as 'Background Tasks with Celery' in Flask's documentation does.",
        )


def _populated(facts: Facts) -> Found:
    assert facts.stats is not None
    for one in facts.stats.collections:
        if not one.configured:
            yield (
                WARNING,
                f"'{one.id}' is served, but not in ARTIFACT_CACHE_COLLECTIONS any more: nothing"
                f" keeps it true; 'flask artifact-cache forget {one.id}' removes it.",
            )
        elif not one.revision:
            yield (
                WARNING,
                f"'{one.id}' has not been read yet; run 'flask artifact-cache populate {one.id}'.",
            )


def _daemon(facts: Facts) -> Found:
    stats = facts.stats
    assert stats is not None
    for one in stats.collections:
        if one.id not in facts.roots:
            continue
        if one.daemon_seen_at is None:
            yield (
                WARNING,
                f"The daemon has not asked for '{one.id}' in the last week; start"
                " artifact-cache-daemon, or refresh in another way.",
            )
        elif stats.now - one.daemon_seen_at > FULL_INTERVAL + PATIENCE:
            yield (
                WARNING,
                f"The daemon last asked for '{one.id}' at {isoformat(one.daemon_seen_at)}, longer"
                " ago than it should; look at its log.",
            )


def _clocks(facts: Facts) -> Found:
    stats = facts.stats
    assert stats is not None
    times = [facts.latest_sync, *(one.verified_at for one in stats.collections)]
    latest = max((one for one in times if one is not None), default=None)
    if latest is not None and latest > stats.now + CLOCK_TOLERANCE:
        yield (
            ERROR,
            f"Something was compared with its file at {isoformat(latest)}, which is still to come;"
            " set the clocks (NTP), then run 'flask artifact-cache populate'.",
        )
    if abs(facts.clock_ahead_s) > CLOCK_TOLERANCE.total_seconds():
        yield (
            WARNING,
            f"The clocks of the app and the database are {abs(facts.clock_ahead_s):.0f} s apart;"
            " set them (NTP).",
        )


def _leases(facts: Facts) -> Found:
    for one, left_ms in (facts.leases_ms or {}).items():
        if left_ms > LEASE_MS + 1000:
            yield (
                ERROR,
                f"The lease of '{one}' goes on for {left_ms / 1000:.0f} s, longer than any refresh"
                " takes it for, so none can begin: the database's clock was set back. Once nothing"
                " refreshes, set lease_until_ms of its row in artifact_cache_collection to 0.",
            )
    for one, since in (facts.long_runs or {}).items():
        yield (
            WARNING,
            f"A refresh of '{one}' has been going on since {isoformat(since)}; if its disk hangs,"
            " restart the process that does it.",
        )


def _files(facts: Facts) -> Found:
    assert facts.stats is not None
    states = facts.stats.states
    for one in facts.stats.collections:
        for found in one.problems:
            if found["code"].startswith("E_"):
                place = [one.id, found["path"], found["line"], found["column"]]
                where = ":".join(str(part) for part in place if part)
                how = hint(found["code"], found["message"])
                yield WARNING, f"{where}: {found['code']} {found['message']}; {how}"
    if states["quarantined"]:
        yield (
            WARNING,
            f"The files of {states['quarantined']} artifacts cannot be read; 'flask artifact-cache"
            " problems' names them, and 'lint PATH' says how to mend them.",
        )
    if states["missing"]:
        yield (
            WARNING,
            f"{states['missing']} artifacts are gone from the disk, but kept: too many at once to"
            " be believed, or a table of the app refers to them. Restore them, confirm with the id"
            " that 'flask artifact-cache runs' shows, or remove what refers to them, which"
            " 'flask artifact-cache runs ID' names.",
        )


def _stale(facts: Facts) -> Found:
    assert facts.stats is not None
    stale, total = facts.stats.states["stale"], sum(facts.stats.states.values())
    if stale * 100 > total * STALE_PERCENT:
        yield (
            WARNING,
            f"{stale} of {total} artifacts are stale; run 'flask artifact-cache refresh', and see"
            " to it that something does so within the TTL.",
        )


def _upstream(facts: Facts) -> Found:
    assert facts.stats is not None
    until = facts.stats.limited_until
    if until is not None:
        yield (
            WARNING,
            f"GitHub lets us ask no more until {isoformat(until)}; with a token"
            " (ARTIFACT_CACHE_GITHUB_TOKEN) it allows more.",
        )


CHECKS: Mapping[str, tuple[Callable[[Facts], Found], str]] = {
    "configuration": (_configuration, "Collections are configured."),
    "roots": (_roots, "Every folder is there and can be read."),
    "left": (_left, "No change has left anything behind."),
    "database": (_database, "The database answers, and its tables are those of this version."),
    "journal": (_journal, "Readers do not wait for writers."),
    "limiter": (_limiter, "Rate limits are counted for all workers together."),
    "tokens": (_tokens, "Somebody may change things by HTTP."),
    "background": (_background, "There is a background for what no request waits for."),
    "populated": (_populated, "Every collection was read."),
    "daemon": (_daemon, "The daemon has been heard of."),
    "clocks": (_clocks, "Nothing comes from the future."),
    "leases": (_leases, "No refresh is stuck."),
    "files": (_files, "Every artifact and manifest can be read."),
    "stale": (_stale, "What is stale is little."),
    "upstream": (_upstream, "GitHub may be asked."),
}
_OF_ROWS = (_populated, _daemon, _clocks, _leases, _files, _stale, _upstream)


# --- when the app begins to serve ----------------------------------------------------------------


def wal_on_network(url: URL, mounts: str | None = None) -> str | None:
    """What to say of a SQLite database in WAL mode on a network file system; None: it is not.

    The header of the file tells the mode (SQLite's file format, section 1.3), without a connection
    and without a lock that might have to be waited for.

    :param mounts: as of :func:`gather`.
    """
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    path = Path(url.database)
    try:
        with path.open("rb") as file:
            versions = file.read(20)[18:]
    except OSError:  # in memory, or not there yet
        return None
    if versions != b"\x02\x02":
        return None
    found = _journal_of("wal", file_system(path.resolve(), _mounts(mounts)))
    return next((message for _, message in found), None)


# --- facts ---------------------------------------------------------------------------------------


def gather(
    app: Flask, *, mounts: str | None = None, environment: Mapping[str, str] = os.environ
) -> Facts:
    """The facts about an app; needs its context.

    :param mounts: what the system has mounted where, as in ``/proc/mounts``; None: ask it.
    """
    mounted = app.extensions["artifact_cache"]
    service, settings = mounted.service, mounted.settings
    found: dict[str, Any] = {
        "roots": {
            one: _wrong_with(service.collections.artifacts(one).root)
            for one in service.collections.ids()
        },
        "left": {
            one: left_over(service.collections.artifacts(one).root)
            for one in service.collections.ids()
        },
        "tokens": len(settings.tokens),
        "may_change": mounted.guard.authorize is not None,
        "background": settings.background,
        "has_celery": "celery" in app.extensions,
        "limiter": _limiter_of(mounted.guard.rates),
        "workers": workers(environment),
        "answers": False,
        "revision": None,
        "wanted": None if settings.migrations == "host" else newest(),
        "journal_mode": None,
        "file_system": None,
    }
    try:
        with service.reading() as connection:
            if connection.dialect.name == "sqlite":
                mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
                file = engine_of(mounted.db).url.database
                found["journal_mode"] = mode
                if file and mode != "memory":
                    found["file_system"] = file_system(Path(file).resolve(), _mounts(mounts))
            found["answers"] = True
            if settings.migrations != "host":
                found["revision"] = current(connection)
                found["missing"] = missing(connection)
            now = now_ms(connection)
            database_ms = connection.scalar(select(now))
            found["leases_ms"] = {
                row[0]: row[1]
                for row in connection.execute(
                    select(Collection.id, Collection.lease_until_ms - now).where(
                        Collection.lease_holder.is_not(None)
                    )
                )
            }
            found["long_runs"] = {
                row[0]: row[1]
                for row in connection.execute(
                    select(RefreshRun.collection_id, func.min(RefreshRun.started_at))
                    .where(
                        RefreshRun.finished_at.is_(None),
                        RefreshRun.alive_until_ms > now,
                        RefreshRun.started_at < service.now() - LONG_RUN,
                    )
                    .group_by(RefreshRun.collection_id)
                )
            }
            found["latest_sync"] = connection.scalar(select(func.max(Artifact.synced_at)))
        stats = service.stats()
        found["clock_ahead_s"] = stats.now.timestamp() - (database_ms or 0) / 1000
        found["stats"] = stats
    except (SQLAlchemyError, SchemaError):
        pass  # how far it came tells what is wrong
    return Facts(**found)


def _wrong_with(root: Path) -> str:
    try:
        with os.scandir(root) as entries:
            return "" if next(entries, None) else "empty"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError:
        return "unreadable"


def _limiter_of(rates: Any) -> str:
    try:
        found: str = rates.storage()
    except ConfigurationError as error:
        return str(error)
    return found


def workers(environment: Mapping[str, str]) -> int | None:
    """How many workers a server would have, as its environment says; None: it does not."""
    given = shlex.split(environment.get("GUNICORN_CMD_ARGS", ""))
    told = re.search(r"(?:^| )(?:-w|--workers)[ =]?(\d+)", " ".join(given))
    number = told.group(1) if told else environment.get("WEB_CONCURRENCY", "")
    return int(number) if number.isdecimal() else None


def _mounts(given: str | None) -> str:
    if given is not None:
        return given
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def file_system(path: Path, mounts: str) -> str | None:
    """The type of the file system that a file is on; None: unknown.

    :param mounts: lines of device, place and type, as in ``/proc/mounts`` (fstab(5)): blanks are
        written in octal, and what was mounted later is on top.
    """
    best, found = -1, None
    for line in mounts.splitlines():
        _, place, kind, *_ = [*line.split(" "), "", "", ""]
        where = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), place)
        if kind and path.is_relative_to(where) and len(where) >= best:
            best, found = len(where), kind
    return found
