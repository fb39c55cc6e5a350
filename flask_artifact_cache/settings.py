"""Every ``ARTIFACT_CACHE_*`` setting: its default, its meaning, and what it may be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from limits import RateLimitItem, parse_many

from .errors import ConfigurationError

PREFIX = "ARTIFACT_CACHE_"

DEFAULTS: dict[str, Any] = {
    # Collection id -> root folder, or {"path": ..., "types": {...}, "exclude": [...]}.
    # A bare path is the collection "default".
    "ARTIFACT_CACHE_COLLECTIONS": {},
    # Minutes for which a row counts as fresh after it was verified against its file.
    "ARTIFACT_CACHE_TTL_MINUTES": 30,
    # Where the JSON API is mounted.
    "ARTIFACT_CACHE_API_PREFIX": "/api/v1/user-collections",
    # Bearer tokens that may use the changing routes; several are valid at once, for rotation.
    # Each has 16 or more characters of A-Z a-z 0-9 - . _ ~ + / and may end with =.
    "ARTIFACT_CACHE_TOKENS": [],
    # How often one client may sync an artifact or invalidate. Flask-Limiter notation; None or ""
    # switches it off.
    "ARTIFACT_CACHE_SYNC_LIMIT": "120/minute",
    # How often one client may refresh. Flask-Limiter notation; None or "" switches it off.
    "ARTIFACT_CACHE_REFRESH_LIMIT": "30/minute",
    # The longest body that a request may have, in bytes; the app's MAX_CONTENT_LENGTH holds, too.
    "ARTIFACT_CACHE_MAX_BODY_BYTES": 1_048_576,
    # Whether one worker checks every collection in the background once the app serves requests.
    "ARTIFACT_CACHE_POPULATE_ON_STARTUP": True,
    # A refresh that would remove more than this share of a collection, and more than
    # ten artifacts, removes none and asks. Per cent; 100 switches the brake off.
    "ARTIFACT_CACHE_MASS_LOSS_PERCENT": 20,
    # Where work that no request waits for is done: "thread" or "none".
    "ARTIFACT_CACHE_BACKGROUND": "thread",
    # Who owns the tables: "package" (our migrations) or "host" (the app's own migrations).
    "ARTIFACT_CACHE_MIGRATIONS": "package",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one application, checked."""

    collections: Mapping[str, Any]
    ttl: timedelta
    api_prefix: str
    tokens: tuple[str, ...] = field(repr=False)
    limits: Mapping[str, tuple[RateLimitItem, ...]]
    max_body_bytes: int
    populate_on_startup: bool
    mass_loss_percent: float
    background: str
    migrations: str


def load(config: Mapping[str, Any]) -> Settings:
    """Check an application's configuration.

    :raises ConfigurationError: naming the key, what is wrong with it, and what it may be.
    """
    for key in config:
        if key.startswith(PREFIX) and key not in DEFAULTS:
            near = difflib.get_close_matches(key, DEFAULTS, n=1)
            also = f"; did you mean {near[0]}?" if near else ""
            raise ConfigurationError(f"{key} is not a setting of the artifact cache{also}")
    values = {**DEFAULTS, **{key: config[key] for key in DEFAULTS if key in config}}

    def checked(name: str, accept: Callable[[Any], bool], expected: str) -> Any:
        value = values[PREFIX + name]
        if not accept(value):
            raise ConfigurationError(f"{PREFIX}{name} must be {expected}, not {value!r}")
        return value

    def number(low: float, high: float) -> Callable[[Any], bool]:
        return lambda value: (
            isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        )

    collections = checked(
        "COLLECTIONS",
        lambda value: isinstance(value, (str, Path, Mapping)),
        "a folder, or a mapping of collection ids to folders",
    )
    return Settings(
        collections=collections if isinstance(collections, Mapping) else {"default": collections},
        ttl=timedelta(
            minutes=checked(
                "TTL_MINUTES", number(1 / 60, 525_600), "a number of minutes, at most a year"
            )
        ),
        api_prefix=checked(
            "API_PREFIX",
            lambda value: (
                isinstance(value, str)
                and value.startswith("/")
                and not value.endswith("/")
                and "<" not in value
            ),
            "a path such as '/artifacts', with a slash at its start and none at its end",
        ),
        tokens=_tokens(values[PREFIX + "TOKENS"]),
        limits={name: _limit(f"{name}_limit".upper(), values) for name in ("sync", "refresh")},
        max_body_bytes=checked(
            "MAX_BODY_BYTES",
            lambda value: isinstance(value, int) and number(1024, 2**30)(value),
            "a whole number of bytes from 1024 to 1073741824",
        ),
        populate_on_startup=checked(
            "POPULATE_ON_STARTUP", lambda value: isinstance(value, bool), "True or False"
        ),
        mass_loss_percent=checked("MASS_LOSS_PERCENT", number(0, 100), "a number from 0 to 100"),
        background=checked(
            "BACKGROUND", lambda value: value in ("thread", "none"), "'thread' or 'none'"
        ),
        migrations=checked(
            "MIGRATIONS", lambda value: value in ("package", "host"), "'package' or 'host'"
        ),
    )


# What can stand in an Authorization header (RFC 6750, section 2.1).
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_TOKEN_LENGTH = 16


def _tokens(value: Any) -> tuple[str, ...]:
    """The tokens, checked; no message shows one."""
    key = f"{PREFIX}TOKENS"
    if not isinstance(value, (list, tuple)):
        raise ConfigurationError(f"{key} must be a list of tokens, not a {type(value).__name__}")
    for index, token in enumerate(value):
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ConfigurationError(
                f"{key}[{index}] must be a text of A-Z, a-z, 0-9 and -._~+/ that may end with ="
            )
        if len(token) < _TOKEN_LENGTH:
            raise ConfigurationError(
                f"{key}[{index}] must have at least {_TOKEN_LENGTH} characters;"
                " 'openssl rand -hex 32' makes a good one"
            )
        if token in value[:index]:
            raise ConfigurationError(f"{key}[{index}] must not be there twice")
    return tuple(value)


def _limit(name: str, values: Mapping[str, Any]) -> tuple[RateLimitItem, ...]:
    """A limit in Flask-Limiter's notation; empty where it is switched off."""
    value = values[PREFIX + name]
    if value is None or value == "":
        return ()
    try:
        items = tuple(parse_many(value))
    except ValueError:
        items = ()
    if not items or any(item.amount < 1 for item in items):
        raise ConfigurationError(
            f"{PREFIX}{name} must be a limit such as '30/minute' or '5/second; 100/hour', or None"
            f" for none, not {value!r}"
        )
    return items
