"""Which folders to watch, if nobody but the app can say: asks it again and again."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from .delivery import Answer, Backoff, UnreachableError, judge
from .logs import LOGGER
from .settings import Token, checked_root

log = logging.getLogger(LOGGER)

NO_COLLECTIONS = "the app has no collections yet"
NO_FOLDERS = (
    "the app does not say where its collections are: pass --collection ID=PATH, or give the daemon"
    " a token and let it run on the app's machine"
)
# Between two questions at least, however often somebody knocks.
REST_S = 0.5


class Lister(Protocol):
    """What is needed of the app here."""

    def collections(self) -> Answer:
        """Ask which collections there are."""


class UntoldError(Exception):
    """The app has not said what to watch.

    :ivar wait_s: how long it wants to be left alone.
    :ivar lasting: whether it will not, either, until somebody changes something.
    """

    def __init__(self, reason: str, wait_s: float = 0.0, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.lasting = lasting


def ask(api: Lister) -> dict[str, str]:
    """Which folders the app wants to have watched: id -> root, at least one.

    :raises UntoldError: if it does not say.
    """
    try:
        answer = api.collections()
    except UnreachableError as error:
        raise UntoldError(str(error)) from None
    if answer.status != 200:
        verdict = judge(answer)
        reason = verdict.reason or f"the app answers {answer.status}"
        raise UntoldError(reason, verdict.wait_s, lasting=answer.status in (401, 403))
    listed = (answer.body or {}).get("collections")
    if not isinstance(listed, list):
        raise UntoldError("the answer 200 is not one of the artifact cache; is the URL right?")
    if not listed:
        raise UntoldError(NO_COLLECTIONS, lasting=True)
    found = dict(filter(None, map(_root, listed)))
    if not found:
        raise UntoldError(NO_FOLDERS, lasting=True)
    return found


def _root(one: Any) -> tuple[str, str] | None:
    """Id and root of a collection; None if its folder is not named, or is none to be watched."""
    if not isinstance(one, dict) or one.get("path") is None:
        return None
    name: Any = one.get("id")
    path: Any = one["path"]
    try:
        # The id becomes the name of a file.
        root = checked_root(name, path)
        if not Path(path).is_absolute():
            raise ValueError(f"names no folder for {name!r}")
    except ValueError as error:
        reason = f"the app {error}"[:400]
        log.warning("%s; that is not watched", reason, extra={"reason": reason})
        return None
    return name, root


class Asker(threading.Thread):
    """Asks the app for its collections: after a failure soon, else now and then.

    :param again_s: from one answer to the next question.
    :param told: called after each attempt.
    :ivar found: id -> root as the app last said; None as long as it has not.
    :ivar trouble: why the last attempt was in vain; empty if it was not.
    """

    def __init__(
        self,
        api: Lister,
        token: Token,
        again_s: float,
        told: Callable[[], None],
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(name="asker", daemon=True)
        self.found: dict[str, str] | None = None
        self.trouble = ""
        self._api = api
        self._token = token
        self._again_s = again_s
        self._told = told
        self._backoff = Backoff(time.monotonic, chance)
        self._wake = threading.Event()
        self._halt = threading.Event()

    def run(self) -> None:
        """Ask, and ask again, until :meth:`stop`."""
        while not self._halt.is_set():
            wait_s = self._ask()
            self._told()
            self._wake.wait(wait_s)
            self._wake.clear()
            self._backoff.hurry()
            # What the app has asked for is not for us to shorten.
            self._halt.wait(max(REST_S, self._backoff.wait_s))

    def hurry(self) -> None:
        """Have it ask now, if the app itself has not asked to wait."""
        self._wake.set()

    def stop(self) -> None:
        """Have it end after the question that it is asking; what it hears is of no use then."""
        self._halt.set()
        self._wake.set()

    def _ask(self) -> float:
        """Ask once; in how many seconds again."""
        try:
            self.found = ask(self._api)
        except UntoldError as error:
            self.trouble = str(error)
            if error.lasting and self._token.reload():
                log.info("the token has changed")
                return 0.0
            wait_s = self._backoff.failed(error.wait_s)
            log.warning(
                "%s (failure %d, next attempt in %.0f s)",
                self.trouble,
                self._backoff.failures,
                wait_s,
                extra={"reason": self.trouble},
            )
            return wait_s
        self.trouble = ""
        self._backoff.succeeded()
        return self._again_s
