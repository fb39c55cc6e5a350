"""How often one client may ask, counted where the host counts its own limits."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flask import current_app, request
from flask_limiter.constants import ConfigVars
from limits import RateLimitItem
from limits.errors import ConfigurationError as LimitsConfigurationError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import STRATEGIES, RateLimiter

from ..errors import ConfigurationError, LimiterUnavailableError, RateLimitedError

if TYPE_CHECKING:
    from flask_limiter import Limiter

log = logging.getLogger("flask_artifact_cache")

KEY = "artifact-cache"
STORAGE_RETRY_S = 5


class Rates:
    """The rate limits of one application, in the strategy and the storage of the host's Limiter.

    They are asked here, in the open. The decorator of a Limiter that is not bound to the app lets
    everything through without a word, and a second Limiter would count the host's requests twice.

    :param limiter: the host's; without one, the one that is set up on the app, or else a storage
        of our own as ``RATELIMIT_STORAGE_URI`` has it, in memory by default.
    :param limits: by name; an empty one lets everything through.
    """

    def __init__(
        self, limiter: Limiter | None, limits: Mapping[str, tuple[RateLimitItem, ...]]
    ) -> None:
        self._limiter = limiter
        self._limits = limits
        self._own: RateLimiter | None = None
        self._spare: RateLimiter | None = None
        self._lock = threading.Lock()
        self._down = False
        self._warned = False

    def spend(self, name: str, kind: str, who: str | None = None) -> None:
        """Count a request.

        :param kind: of whom the limit is.
        :param who: which of these it is; None: the client as the host's Limiter tells them apart,
            or else its address.
        :raises RateLimitedError: if it is one too many; such a one is not counted.
        :raises LimiterUnavailableError: if the storage does not answer.
        """
        self._ask(name, kind, who, count=True)

    def check(self, name: str, kind: str, who: str | None = None) -> None:
        """As :meth:`spend`, without counting."""
        self._ask(name, kind, who, count=False)

    def storage(self) -> str:
        """Where requests are counted: ``memory``, ``shared``, ``down``, or ``off`` if they are not.

        :raises ConfigurationError: if they cannot be, as it is set up.
        """
        limiter = self._hosts()
        enabled = current_app.config.get(ConfigVars.ENABLED, True)
        if not (enabled and any(self._limits.values())) or (limiter and not limiter.enabled):
            return "off"
        storage = (self._ours() if limiter is None else limiter.limiter).storage
        if isinstance(storage, MemoryStorage):
            return "memory"
        try:
            return "shared" if storage.check() else "down"
        except Exception:  # noqa: BLE001 - each storage has errors of its own
            return "down"

    def _ask(self, name: str, kind: str, who: str | None, *, count: bool) -> None:
        items = self._limits[name]
        if not items or not current_app.config.get(ConfigVars.ENABLED, True):
            return
        limiter = self._hosts()
        if limiter is not None and not limiter.enabled:
            return
        key = [*_prefix(limiter), KEY, name, kind, _client(limiter) if who is None else who]
        strategy = self._ours() if limiter is None else limiter.limiter
        if (
            not self._warned
            and request.environ.get("wsgi.multiprocess")
            and isinstance(strategy.storage, MemoryStorage)
        ):
            self._warned = True
            log.warning(
                "rate limits are counted in memory, by each worker for itself;"
                " set RATELIMIT_STORAGE_URI to what all of them share"
            )
        try:
            wait_s = _wait_s(strategy, items, key, count)
        except Exception as error:  # noqa: BLE001 - each storage has errors of its own
            wait_s = self._without_storage(limiter, error, items, key, count)
        else:
            self._down = False
        if wait_s:
            limit = "; ".join(map(str, items))
            raise RateLimitedError(f"At most {limit}; wait {wait_s} s.", wait_s)

    def _hosts(self) -> Limiter | None:
        found = current_app.extensions.get("limiter", ())
        if self._limiter is not None:
            if self._limiter not in found:
                raise ConfigurationError(
                    "The 'limiter' given to ArtifactCache is not set up on this app:"
                    " call 'limiter.init_app(app)'."
                )
            return self._limiter
        if len(found) > 1:
            raise ConfigurationError(
                "This app has several Limiters: say which one by ArtifactCache(limiter=...)."
            )
        return next(iter(found), None)

    def _ours(self) -> RateLimiter:
        """Made with the first request that is counted: a storage may start a thread."""
        with self._lock:
            if self._own is None:
                config = current_app.config
                uri = config.get(ConfigVars.STORAGE_URI) or "memory://"
                options = config.get(ConfigVars.STORAGE_OPTIONS) or {}
                try:
                    storage = storage_from_string(uri, **options)
                    strategy = STRATEGIES[config.get(ConfigVars.STRATEGY) or "fixed-window"]
                    self._own = strategy(storage)
                except (LimitsConfigurationError, KeyError, NotImplementedError):
                    # The address may hold a password, so neither is shown.
                    message = f"{ConfigVars.STORAGE_URI} or {ConfigVars.STRATEGY} cannot be used"
                    raise ConfigurationError(message) from None
            return self._own

    def _without_storage(
        self,
        limiter: Limiter | None,
        error: Exception,
        items: Sequence[RateLimitItem],
        key: Sequence[str],
        count: bool,
    ) -> int:
        """What the host has chosen for this case; if it has not, nothing is let through."""
        if not self._down:
            self._down = True
            log.error("the storage of the rate limits does not answer: %s", type(error).__name__)
        if _chosen(limiter, "_in_memory_fallback_enabled", ConfigVars.IN_MEMORY_FALLBACK_ENABLED):
            with self._lock:
                if self._spare is None:
                    self._spare = STRATEGIES["fixed-window"](MemoryStorage())
            return _wait_s(self._spare, items, key, count)
        if _chosen(limiter, "_swallow_errors", ConfigVars.SWALLOW_ERRORS):
            return 0
        message = "The storage of the rate limits does not answer."
        raise LimiterUnavailableError(message, retry_after=STORAGE_RETRY_S) from error


def of_hosts() -> int | None:
    """How long a client has to wait whom a limit of the host's has just refused; None: unknown."""
    now = time.time()
    waits = [
        _rounded_s(limit.window[0] - now, limit.limit)
        for limiter in current_app.extensions.get("limiter", ())
        for limit in limiter.current_limits
        if limit.breached
    ]
    return max(waits, default=None)


def keep_retry_after() -> None:
    """Have no Limiter of the host's put the end of a window of its own in place of ours.

    With ``RATELIMIT_HEADERS_ENABLED``, it writes whichever is later, and cuts a second off.
    """
    for limiter in current_app.extensions.get("limiter", ()):
        limiter.context.view_rate_limit = None


def _wait_s(
    strategy: RateLimiter, items: Sequence[RateLimitItem], key: Sequence[str], count: bool
) -> int:
    """Seconds until the request will be let through; 0 if it is now, and then it is counted.

    All limits are tested before one is counted: a refused request must not use up the others.
    """
    full = [item for item in items if not strategy.test(item, *key)]
    if count and not full:
        full = [item for item in items if not strategy.hit(item, *key)]
        if full:  # somebody was quicker, and the others were counted
            full += [item for item in items if not strategy.test(item, *key)]
    return max((_until_free_s(strategy, item, key) for item in full), default=0)


def _until_free_s(strategy: RateLimiter, item: RateLimitItem, key: Sequence[str]) -> int:
    sliding = STRATEGIES.get("sliding-window-counter")
    if sliding is not None and isinstance(strategy, sliding):
        # Its reset time is when the count falls by one, which may still be one too many. In the
        # next window the count of this one weighs less with every moment.
        _, before_s, current, current_s = strategy.storage.get_sliding_window(  # type: ignore[attr-defined]
            item.key_for(*key), item.get_expiry()
        )
        return _rounded_s(current_s - item.get_expiry() if current else before_s, item)
    return _rounded_s(strategy.get_window_stats(item, *key)[0] - time.time(), item)


def _rounded_s(wait_s: float, item: RateLimitItem) -> int:
    """Whole seconds, from 1 to the window's length.

    Redis tells the end of a window to the nearest second, so half of one is added.
    """
    return max(1, min(math.ceil(wait_s + 0.5), item.get_expiry()))


def _prefix(limiter: Limiter | None) -> list[str]:
    prefix = getattr(limiter, "_key_prefix", "") or current_app.config.get(ConfigVars.KEY_PREFIX)
    return [prefix] if prefix else []


def address() -> str:
    """Where the request comes from."""
    return request.remote_addr or "unknown"


def _client(limiter: Limiter | None) -> str:
    """Who asks, as the host has it told to its Limiter, which has no public name for that."""
    told = getattr(limiter, "_key_func", None)
    return str((told and told()) or address())


def _chosen(limiter: Limiter | None, attribute: str, key: str) -> bool:
    """A choice of the host's: as given to its Limiter, which has no public name for it, or set."""
    return bool(getattr(limiter, attribute, None) or current_app.config.get(key))
