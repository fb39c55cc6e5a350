"""Look once, tell the app, and end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .asking import UntoldError, ask
from .collection import Collection
from .delivery import Api, user_agent
from .logs import LOGGER
from .settings import EXIT_CONFIGURATION, Settings
from .state import Store

log = logging.getLogger(LOGGER)


def once(
    settings: Settings, store: Store | None, *, clock: Callable[[], float] = time.monotonic
) -> int:
    """Look, wait until everything has settled, tell the app; the exit code.

    :param clock: seconds that only ever grow.
    """
    agent = user_agent()
    roots = settings.collections
    if not roots:
        try:
            roots = ask(Api(settings.api_url, settings.token, settings.timeout, agent))
        except UntoldError as error:
            log.error("%s", error)
            return EXIT_CONFIGURATION if error.lasting else 1
    failed = 0
    for collection_id, root in roots.items():
        api = Api(settings.api_url, settings.token, settings.timeout, agent)
        collection = Collection(collection_id, root, settings, api, store, clock=clock)
        why = _tell(collection, 2 * settings.max_settle)
        collection.close()
        if why:
            failed = 1
            extra = {"collection": collection_id, "outcome": "failed"}
            log.error("not everything could be told: %s", why, extra=extra)
    return failed


def _tell(collection: Collection, patience_s: float) -> str:
    """Tell of everything, once it has settled; why that failed, if it did.

    :param patience_s: to wait for that; the looks and the app take as long as they take.
    """
    collection.refresh_due = True
    waited_s = 0.0
    while True:
        wait_s = collection.turn()
        status = collection.status
        if collection.is_done:
            return ""
        if status.unavailable:
            return f"the folder is unavailable: {status.unavailable}"
        if status.failures:
            return status.last_error
        if waited_s > patience_s:
            return f"the files have not settled in {patience_s:g} s"
        wait_s = max(wait_s or 0.0, collection.rest_s)
        waited_s += wait_s
        time.sleep(wait_s)
