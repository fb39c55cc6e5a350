"""Hints of the operating system that a folder has changed; they only shorten the wait."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from .logs import LOGGER

log = logging.getLogger(LOGGER)

# How often to try again, and to see whether other roots are there.
RETRY_S = 30.0


class Hints(threading.Thread):
    """Calls back when something may have changed below a root.

    Whatever goes wrong here, the polls go on: it is said once, and tried again later. A root that
    is missing keeps nobody from hearing of the others.

    :param retry_s: how often to see which roots there are.
    """

    def __init__(
        self, roots: Sequence[str], changed: Callable[[str], None], *, retry_s: float = RETRY_S
    ) -> None:
        super().__init__(name="hints", daemon=True)
        self._roots = roots
        self._changed = changed
        self._retry_s = retry_s
        self._stop_event = threading.Event()

    def run(self) -> None:
        """Listen until :meth:`stop`."""
        while not self._stop_event.is_set():
            there = self._there()
            try:
                if there:
                    self._listen(there)
                    continue
            except Exception as error:  # noqa: BLE001 - a root that goes just now, no inotify left, ...
                reason = f"no hints of changes: {type(error).__name__}"
                log.warning("%s; polling goes on", reason, extra={"reason": reason})
            self._stop_event.wait(self._retry_s)

    def stop(self) -> None:
        """End."""
        self._stop_event.set()

    def _listen(self, there: dict[str, tuple[int, int]]) -> None:
        """Listen to these roots as long as they are the ones that there are."""
        import watchfiles

        looked_at = time.monotonic()
        for changes in watchfiles.watch(
            *there,
            watch_filter=None,
            debounce=50,
            step=20,
            rust_timeout=1000,
            yield_on_timeout=True,
            stop_event=self._stop_event,
            raise_interrupt=False,
            ignore_permission_denied=True,
            # Falling back to polling would be the work of the polls, done twice.
            force_polling=False,
        ):
            paths = {path for _, path in changes}
            for root in there:
                if any(f"{path}/".startswith(f"{root.rstrip('/')}/") for path in paths):
                    self._changed(root)
            if time.monotonic() - looked_at >= self._retry_s:
                looked_at = time.monotonic()
                if self._there() != there:
                    return

    def _there(self) -> dict[str, tuple[int, int]]:
        """The roots that there are, and which folders they are now."""
        found = {}
        for root in self._roots:
            try:
                info = os.stat(root)  # noqa: PTH116
            except OSError:
                continue
            found[root] = (info.st_dev, info.st_ino)
        return found
