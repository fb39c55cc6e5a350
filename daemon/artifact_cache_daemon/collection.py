"""One collection: look at its root, see what has changed, tell the app."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from .delivery import (
    ACKNOWLEDGED,
    FAILED,
    HELD_BACK,
    REFUSED,
    UNAUTHORIZED,
    Answer,
    Backoff,
    UnreachableError,
    Verdict,
    body_of,
    judge,
)
from .evidence import (
    COARSE_S,
    WIDTH,
    Files,
    Known,
    RootUnavailableError,
    Walk,
    as_mapping,
    is_coarse,
    shown,
)
from .glance import Glance
from .logs import LOGGER
from .settings import Settings
from .state import State, Store
from .watcher import DOUBTFUL, Changes, Watcher, compare

log = logging.getLogger(LOGGER)

IDLE, LOOKING, TELLING = "idle", "looking", "telling"
# A look takes at most a tenth of the time.
REST = 9
LEAST_REST_S = 0.02
SAVE_S = 5.0
# Two edits this close to each other may leave the same times on any file system.
FINE_S = 0.1


class Sender(Protocol):
    """What a collection needs of the app."""

    def refresh(self, body: dict[str, Any]) -> Answer:
        """Ask for a refresh."""


@dataclass(slots=True)
class Status:
    """How a collection is, for people and programs; times are in seconds since 1970."""

    collection_id: str
    root: str
    unavailable: str = ""
    files: int = 0
    pending: int = 0
    failures: int = 0
    last_error: str = ""
    needs_confirmation: str = ""
    last_poll: float | None = None
    last_acknowledged: float | None = None
    last_refresh_id: str = ""
    poll_seconds: float = 0.0


class Collection:
    """Keeps the app informed about one root; used by one thread.

    :param api: the app.
    :param store: where to remember; None remembers nothing.
    :param clock: seconds that only ever grow.
    :param wall: seconds since 1970.
    :ivar phase: what it is doing, ``phase_since`` when by its clock; with ``beats``, how a stuck
        look is told from a long one.
    :ivar refresh_due: whether the app is to be asked to check what it has not verified lately.
    :ivar walk_due: whether the next look has to list every folder.
    """

    def __init__(
        self,
        collection_id: str,
        root: str,
        settings: Settings,
        api: Sender,
        store: Store | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.status = Status(collection_id, root)
        self.phase = IDLE
        self.phase_since = clock()
        self.beats = 0
        self.refresh_due = False
        self.walk_due = False
        self.stopping = False
        self._id = collection_id
        self._root = root
        self._settings = settings
        self._api = api
        self._store = store
        self._clock = clock
        self._wall = wall
        self.backoff = Backoff(clock, chance)
        self._key = {"api_url": settings.api_url, "root": root}
        self._extra: dict[str, Any] = {"collection": collection_id}
        self._look_s = 0.0
        self._dirty = False
        self._saved_at = clock()
        self._save_s = 0.0
        self._problems: set[str] = set()
        # What the store knows that the app may have been told; None is everything.
        self._noted: set[str | None] = set()
        self._device: int | None = None
        self._glance = Glance(root, clock=clock, beat=self._beat)
        self.watcher = Watcher(Known(), settings.settle, settings.max_settle)
        # Without a state that can be relied on, only a refresh of everything tells what is what.
        self.trusted = False
        self._recalled = False

    # --- the turn ----------------------------------------------------------------------------

    def turn(self) -> float | None:
        """Look once and tell what there is to tell.

        :returns: in how many seconds to come again at the latest; None means at the next poll.
        """
        try:
            if not self._recalled:
                self._recall()
            self._turn()
        except Exception as error:  # the other collections go on, and so does this one
            self._failed(f"unexpected {type(error).__name__}")
            log.exception("something unexpected went wrong", extra=self._extra)
        finally:
            self._enter(IDLE)
            self.status.pending = self.watcher.pending + (not self.trusted)
            self.status.failures = self.backoff.failures
        self._save_now_and_then()
        return self._next_s()

    @property
    def rest_s(self) -> float:
        """How long to leave the disk alone after a look."""
        return max(LEAST_REST_S, REST * self._look_s)

    @property
    def interval_s(self) -> float:
        """Between two looks: longer than configured if a look takes long."""
        return max(self._settings.interval, (REST + 1) * self._look_s)

    @property
    def is_done(self) -> bool:
        """Whether the app knows all there is to know."""
        return self.trusted and not self.refresh_due and self.watcher.is_quiet

    def hurry(self) -> None:
        """Look closely, and tell what there is to tell now unless the app has asked to wait."""
        self.walk_due = True
        self.backoff.hurry()

    def follow(self, before: Collection) -> None:
        """Wait as long as the app has asked one before us to wait."""
        self.backoff = before.backoff
        self.backoff.hurry()

    def close(self) -> None:
        """Remember what the app has acknowledged."""
        if self._dirty:
            self._save()

    def _turn(self) -> None:
        started = self._clock()
        try:
            if not self.trusted:
                self._begin()
                return
            self._look()
        except RootUnavailableError as error:
            self._unavailable(str(error))
            return
        if self.backoff.wait_s > 0 or self.stopping:
            return
        changes = self.watcher.ready(started)
        if changes is not None and not self._tell(changes):
            return
        if self.refresh_due and not self.stopping:
            body = {"collection_id": self._id, "older_than_minutes": self._settings.ttl_minutes}
            if self._ask(body).kind in (ACKNOWLEDGED, HELD_BACK):
                self.refresh_due = False
                self.watcher.asked_for_more()

    def _next_s(self) -> float | None:
        waits = []
        now = self._clock()
        if not self.status.unavailable:
            if self.backoff.wait_s > 0:
                if not self.is_done:
                    waits.append(self.backoff.wait_s)
            elif (settled_s := self.watcher.next_look_s(now)) is not None:
                waits.append(settled_s)
        return min(waits, default=None)

    # --- look --------------------------------------------------------------------------------

    def _look(self) -> None:
        """Compare the root with what the app knows.

        :raises RootUnavailableError: if what is seen is not to be believed.
        """
        self._enter(LOOKING)
        known = self.watcher.acknowledged
        started = self._clock()
        may_glance, self.walk_due = self.watcher.is_quiet and not self.walk_due, False
        if may_glance and self._glance.agrees(known):
            self._looked(self._clock() - started)
            self._available()
            return
        walk = Walk(self._root, beat=self._beat)
        changes, count = compare(known, walk, walk.hides)
        ended = self._clock()
        self._glance.remember(walk, started, agrees=not changes)
        self._seen(walk, count, ended - started)
        gone = sum(evidence is None for evidence in changes.values())
        if not count and gone and not walk.unseen:
            raise RootUnavailableError("all of its files are gone at once")
        if self._device != walk.device:
            if gone * 2 > len(known) and not _share_a_file(known, changes, count):
                raise RootUnavailableError("another device is mounted there, without its files")
            self._device, self._dirty = walk.device, True
        self._available()
        self.watcher.observe(changes, ended, walk.hides, walk.times)

    def _begin(self) -> None:
        """Have the app look at everything, and remember what there was just before."""
        self._enter(LOOKING)
        walk = Walk(self._root, beat=self._beat)
        if self.backoff.wait_s > 0 or self.stopping:
            self._available()
            return
        started = self._clock()
        young_ns = int(self._wall() * 1e9)
        seen = Known(dict(_doubting_the_young(walk, young_ns)))
        self._seen(walk, len(seen), self._clock() - started)
        self._available()
        if self._ask({"collection_id": self._id}).kind not in (ACKNOWLEDGED, HELD_BACK):
            return
        self.trusted = True
        self.refresh_due = False
        self._device = walk.device
        self.watcher.adopt(seen, walk.times)
        self._dirty = True

    def _enter(self, phase: str) -> None:
        # In this order, for whoever looks on from another thread.
        self.phase_since = self._clock()
        self.phase = phase
        self._beat()

    def _beat(self) -> None:
        self.beats += 1

    def _seen(self, walk: Walk, count: int, look_s: float) -> None:
        self._looked(look_s)
        self.status.files = count
        for problem in sorted(set(walk.problems) - self._problems)[:10]:
            log.warning("%s", problem, extra={**self._extra, "reason": problem})
        self._problems = set(walk.problems)

    def _looked(self, look_s: float) -> None:
        self._look_s = look_s
        self.status.poll_seconds = round(look_s, 6)
        self.status.last_poll = self._wall()

    def _unavailable(self, why: str) -> None:
        # None of what lies below it is deleted, as far as anybody knows.
        self.status.last_poll = self._wall()
        if self.status.unavailable != why:
            log.error(
                "the folder %s is unavailable, nothing below it is touched: %s",
                shown(self._root),
                why,
                extra={**self._extra, "outcome": "unavailable", "reason": why},
            )
        self.status.unavailable = why

    def _available(self) -> None:
        if self.status.unavailable:
            log.info("the folder is available again", extra=self._extra)
            # Whatever the app refused meanwhile, it can do now.
            self.backoff.hurry()
        self.status.unavailable = ""

    # --- tell --------------------------------------------------------------------------------

    def _tell(self, changes: Changes) -> bool:
        """Tell of changes, in as few requests as possible; whether all were acknowledged."""
        batches = [list(changes)]
        if self.watcher.everything_again:
            return self._tell_everything(changes)
        while batches:
            batch = batches.pop()
            body = body_of(self._id, [shown(path) for path in batch])
            if body is None:
                return self._tell_everything(changes)
            verdict = self._ask(body, batch)
            if verdict.kind in (ACKNOWLEDGED, HELD_BACK):
                self._acknowledged({path: changes[path] for path in batch})
            elif verdict.kind == REFUSED and len(batch) > 1:
                middle = len(batch) // 2
                batches += [batch[middle:], batch[:middle]]
            elif verdict.kind == REFUSED:
                log.warning(
                    "%s to the path '%s', so all of the collection is refreshed",
                    verdict.reason,
                    shown(batch[0]),
                    extra={**self._extra, "outcome": REFUSED},
                )
                return self._tell_everything(changes)
            else:
                return False
            if self.stopping and batches:
                return False
        return True

    def _tell_everything(self, changes: Changes) -> bool:
        """Have the app look at everything, which covers these changes."""
        taken = self._ask({"collection_id": self._id}).kind in (ACKNOWLEDGED, HELD_BACK)
        if taken:
            self.refresh_due = False
            self._acknowledged(changes, everything=True)
        return taken

    def _acknowledged(self, changes: Changes, *, everything: bool = False) -> None:
        self.watcher.acknowledge(changes, self._clock(), everything=everything)
        self._dirty = True

    def _ask(self, body: dict[str, Any], told: list[str] | None = None) -> Verdict:
        """Ask for a refresh and take down what came of it.

        :param told: the paths it is about; None means all.
        """
        self._enter(TELLING)
        self._note(told)
        started = self._clock()
        verdict = self._judged(body)
        if verdict.kind == UNAUTHORIZED and self._settings.token.reload():
            log.info("the token has changed", extra=self._extra)
            verdict = self._judged(body)
        paths = body.get("paths", ())
        if verdict.kind in (ACKNOWLEDGED, HELD_BACK):
            self._taken(verdict, len(paths), self._clock() - started)
        elif verdict.kind != REFUSED or len(paths) == 0:
            self._failed(verdict.reason, verdict.wait_s)
            if verdict.heard and self.trusted:
                self.watcher.maybe_heard(told or (), everything=told is None)
        return verdict

    def _note(self, told: list[str] | None) -> None:
        """Remember what the app is about to be told, if that is not remembered yet."""
        if self._store is None or not self.trusted or None in self._noted:
            return
        new = {None} if told is None else {*told} - self._noted
        if not new:
            return
        self._dirty = True
        try:
            self._store.note(self._id, told)
        except OSError as error:
            self._unsaved(error)
        else:
            self._noted |= new

    def _unsaved(self, error: OSError) -> None:
        reason = f"the state cannot be saved: {error.strerror}"
        log.warning("%s", reason, extra={**self._extra, "reason": reason})

    def _judged(self, body: dict[str, Any]) -> Verdict:
        self._beat()
        try:
            return judge(self._api.refresh(body))
        except UnreachableError as error:
            return Verdict(FAILED, str(error), heard=error.heard)

    def _taken(self, verdict: Verdict, paths: int, duration_s: float) -> None:
        status = self.status
        if self.backoff.failures:
            log.info("the app answers again", extra=self._extra)
        self.backoff.succeeded()
        status.last_error = ""
        status.last_acknowledged = self._wall()
        status.last_refresh_id = verdict.refresh_id
        extra = {
            **self._extra,
            "outcome": verdict.kind,
            "refresh_id": verdict.refresh_id,
            "paths": paths,
            "duration_s": round(duration_s, 3),
        }
        if verdict.kind == HELD_BACK:
            status.needs_confirmation = verdict.refresh_id
            log.warning(
                "many artifacts are gone at once, so the app removes none of them: restore the"
                " folder, or confirm the removal with the id %s",
                verdict.refresh_id,
                extra=extra,
            )
            return
        if not paths:
            status.needs_confirmation = ""
        if paths:
            log.info("told the app of %d changed file%s", paths, "s"[: paths > 1], extra=extra)
        else:
            log.info("the app has checked the collection", extra=extra)

    def _failed(self, reason: str, at_least_s: float = 0.0) -> None:
        wait_s = self.backoff.failed(at_least_s)
        self.status.last_error = reason
        log.warning(
            "%s (failure %d, next attempt in %.0f s)",
            reason,
            self.backoff.failures,
            wait_s,
            extra={**self._extra, "outcome": FAILED, "reason": reason},
        )

    # --- remember ----------------------------------------------------------------------------

    def _recall(self) -> None:
        """Go on where the last one ended; not before the first turn, for that may take a while."""
        state = self._store.load(self._id, self._key) if self._store else None
        if state is not None:
            self.trusted = True
            self._device = state.device
            self.watcher.acknowledged = state.acknowledged
            self.watcher.again = state.again
            self.watcher.everything_again = state.everything_again
        self._recalled = True

    def _save_now_and_then(self) -> None:
        """Save what is new, in at most one hundredth of the time."""
        if self._dirty and self._clock() - self._saved_at >= max(SAVE_S, 100 * self._save_s):
            self._save()

    def _save(self) -> None:
        if self._store is None or not self.trusted or self.watcher.everything_unsure:
            return
        started = self._clock()
        state = State(self._key, self.watcher.acknowledged, self._device, self.watcher.unsure)
        try:
            self._store.save(self._id, state)
        except OSError as error:
            self._unsaved(error)
        else:
            self._dirty = False
            self._noted = {*self.watcher.unsure}
        self._saved_at = self._clock()
        self._save_s = self._saved_at - started


def _share_a_file(known: Known, changes: Changes, count: int) -> bool:
    """Whether something of what is known is there, however much is gone.

    Numbers of devices change when a machine starts anew or a share is mounted anew; inodes may,
    too, and so may the time of the last change of either. Files of another collection that happen
    to have the same path do not have the same size and time.

    :param count: how many files were seen.
    """
    if count > sum(evidence is not None for evidence in changes.values()):
        return True  # of what was seen, something has not changed
    for folder, files in known.folders.items():
        prefix = f"{folder}/" if folder else ""
        for name, before in as_mapping(files).items():
            now = changes.get(prefix + name)
            if now is not None and now[:2] == before[:2]:
                return True
    return False


def _doubting_the_young(walk: Walk, now_ns: int) -> Iterator[tuple[str, Files]]:
    """Pass on what is seen, but with no evidence of files that may change without leaving any.

    Such a file differs from what is acknowledged at the next look, and is told of then.
    """
    fine_ns, coarse_ns = now_ns - int(FINE_S * 1e9), now_ns - int(COARSE_S * 1e9)
    for folder, files in walk:
        for index in range(0, len(files), WIDTH):
            evidence = files[index + 1 : index + WIDTH]
            latest_ns = max(evidence[1], evidence[2])
            if latest_ns > fine_ns or (latest_ns > coarse_ns and is_coarse(evidence)):
                files = (*files[: index + 1], *DOUBTFUL, *files[index + WIDTH :])
        yield folder, files
