"""Every ``ARTIFACT_CACHE_*`` setting: its default, its meaning, and what it may be."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

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
