"""Hints of the operating system that a folder has changed; they only shorten the wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from .logs import LOGGER

log = logging.getLogger(LOGGER)

RETRY_S = 30.0


class Hints(threading.Thread):
    """Calls back when something may have changed below a root.

    Whatever goes wrong here, the polls go on: it is said once, and tried again later.
    """

    def __init__(self, roots: list[str], changed: Callable[[str], None]) -> None:
        super().__init__(name="hints", daemon=True)
        self._roots = roots
        self._changed = changed
        self._stop_event = threading.Event()

    def run(self) -> None:
        """Listen until :meth:`stop`."""
        import watchfiles

        while not self._stop_event.is_set():
            try:
                for changes in watchfiles.watch(
                    *self._roots,
                    watch_filter=None,
                    debounce=50,
                    step=20,
                    rust_timeout=1000,
                    stop_event=self._stop_event,
                    raise_interrupt=False,
                    ignore_permission_denied=True,
                    # Falling back to polling would be the work of the polls, done twice.
                    force_polling=False,
                ):
                    paths = {path for _, path in changes}
                    for root in self._roots:
                        if any(path.startswith(root) for path in paths):
                            self._changed(root)
            except Exception as error:  # noqa: BLE001 - a root that is gone, no inotify left, ...
                reason = f"no hints of changes: {type(error).__name__}"
                log.warning("%s; polling goes on", reason, extra={"reason": reason})
            self._stop_event.wait(RETRY_S)

    def stop(self) -> None:
        """End."""
        self._stop_event.set()
