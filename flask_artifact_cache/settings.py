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
from .upstream.sources import api_root

PREFIX = "ARTIFACT_CACHE_"

DEFAULTS: dict[str, Any] = {
    # Collection id -> root folder, or {"path": ..., "types": {...}, "exclude": [...],
    # "ttl_minutes": ...}.
    # A bare path is the collection "default". A relative one begins at the app's root_path, "~" is
    # the home of who runs the app.
    "ARTIFACT_CACHE_COLLECTIONS": {},
    # Minutes for which a row counts as fresh after it was verified against its file.
    "ARTIFACT_CACHE_TTL_MINUTES": 30,
    # Where the JSON API is mounted.
    "ARTIFACT_CACHE_API_PREFIX": "/api/v1/user-collections",
    # Where the HTML page is mounted; None leaves it out.
    "ARTIFACT_CACHE_PAGE_PREFIX": "/collection",
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
    # Where work that no request waits for is done: "thread", "celery" or "none".
    "ARTIFACT_CACHE_BACKGROUND": "thread",
    # A token for GitHub, for artifacts that come from there; None for what is public.
    "ARTIFACT_CACHE_GITHUB_TOKEN": None,
    # The API of the GitHub that artifacts come from; that of a GitHub Enterprise Server ends with
    # /api/v3.
    "ARTIFACT_CACHE_GITHUB_API_URL": "https://api.github.com",
    # Where is remembered what GitHub said, so that asking again costs nothing, and until when it is
    # not to be asked. An absolute path; None is the folder artifact-cache in the app's instance
    # folder.
    "ARTIFACT_CACHE_GITHUB_STATE_FOLDER": None,
    # Who owns the tables: "package" (our migrations) or "host" (the app's own migrations).
    "ARTIFACT_CACHE_MIGRATIONS": "package",
}

# What may be said of a collection.
COLLECTION_KEYS = ("path", "layout", "types", "exclude", "ttl_minutes")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one application, checked."""

    collections: Mapping[str, Any]
    ttl: timedelta
    ttls: Mapping[str, timedelta]
    api_prefix: str
    page_prefix: str | None
    tokens: tuple[str, ...] = field(repr=False)
    limits: Mapping[str, tuple[RateLimitItem, ...]]
    max_body_bytes: int
    populate_on_startup: bool
    mass_loss_percent: float
    background: str
    github_token: str | None = field(repr=False)
    github_api_url: str
    github_state_folder: Path | None
    migrations: str

    def ttl_of(self, collection_id: str) -> timedelta:
        """For how long the rows of a collection count as fresh."""
        return self.ttls.get(collection_id, self.ttl)


def load(
    config: Mapping[str, Any], instance: str | None = None, root: str | None = None
) -> Settings:
    """Check an application's configuration.

    :param root: the app's root_path, where relative paths of collections begin; without one, they
        begin at the working directory.
    :param instance: the app's instance folder; without one, there is no default for what is kept
        in it.
    :raises ConfigurationError: naming the key, what is wrong with it, and what it may be.
    """
    for key in config:
        if key.startswith(PREFIX) and key not in DEFAULTS:
            near = _nearest(key)
            also = f"; did you mean {near}?" if near else ""
            raise ConfigurationError(f"{key} is not a setting of the artifact cache{also}")
    values = {**DEFAULTS, **{key: config[key] for key in DEFAULTS if key in config}}

    def checked(name: str, accept: Callable[[Any], bool], expected: str) -> Any:
        value = values[PREFIX + name]
        if not accept(value):
            raise ConfigurationError(f"{PREFIX}{name} must be {expected}, not {value!r}")
        return value

    collections = checked(
        "COLLECTIONS",
        lambda value: isinstance(value, (str, Path, Mapping)),
        "a folder, or a mapping of collection ids to folders",
    )
    if not isinstance(collections, Mapping):
        collections = {"default": collections}
    api_prefix = checked("API_PREFIX", _is_prefix, _A_PREFIX)
    page_prefix = checked(
        "PAGE_PREFIX", lambda value: value is None or _is_prefix(value), f"{_A_PREFIX}; or None"
    )
    if page_prefix is not None:
        _check_apart(config, api_prefix, page_prefix)
    return Settings(
        collections={key: _collection(key, value, root) for key, value in collections.items()},
        ttls={
            key: _ttl(value["ttl_minutes"], f"{PREFIX}COLLECTIONS[{key!r}]['ttl_minutes']")
            for key, value in collections.items()
            if isinstance(value, Mapping) and "ttl_minutes" in value
        },
        ttl=_ttl(values[f"{PREFIX}TTL_MINUTES"], f"{PREFIX}TTL_MINUTES"),
        api_prefix=api_prefix,
        page_prefix=page_prefix,
        tokens=_tokens(values[PREFIX + "TOKENS"]),
        limits={name: _limit(f"{name}_limit".upper(), values) for name in ("sync", "refresh")},
        max_body_bytes=checked(
            "MAX_BODY_BYTES",
            lambda value: isinstance(value, int) and _is_number(value, 1024, 2**30),
            "a whole number of bytes from 1024 to 1073741824",
        ),
        populate_on_startup=checked(
            "POPULATE_ON_STARTUP", lambda value: isinstance(value, bool), "True or False"
        ),
        mass_loss_percent=checked(
            "MASS_LOSS_PERCENT",
            lambda value: _is_number(value, 0, 100),
            "a number from 0 to 100",
        ),
        background=checked(
            "BACKGROUND",
            lambda value: value in ("thread", "celery", "none"),
            "'thread', 'celery' or 'none'",
        ),
        github_token=_github_token(values[PREFIX + "GITHUB_TOKEN"]),
        github_api_url=_github_api_url(values[PREFIX + "GITHUB_API_URL"]),
        github_state_folder=_state_folder(
            checked(
                "GITHUB_STATE_FOLDER",
                lambda value: (
                    value is None or (isinstance(value, (str, Path)) and Path(value).is_absolute())
                ),
                "an absolute path, or None for one in the app's instance folder",
            ),
            instance,
        ),
        migrations=checked(
            "MIGRATIONS", lambda value: value in ("package", "host"), "'package' or 'host'"
        ),
    )


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _ttl(value: Any, name: str) -> timedelta:
    if not _is_number(value, 1 / 60, 525_600):
        raise ConfigurationError(
            f"{name} must be a number of minutes, at most a year, not {value!r}"
        )
    return timedelta(minutes=value)


def _nearest(key: str) -> str | None:
    """The setting that is likely to be meant by a key that is none: often its end is missing."""
    begun = [name for name in DEFAULTS if key != PREFIX and name.startswith(key)]
    return next(iter(begun or difflib.get_close_matches(key, DEFAULTS, n=1)), None)


def _collection(collection_id: Any, value: Any, root: str | None) -> Any:
    """What the file side is told of a collection, which is to check it."""
    if not isinstance(value, Mapping):
        return _located(value, root)
    where = f"{PREFIX}COLLECTIONS[{collection_id!r}]"
    unknown = sorted(set(map(str, value)).difference(COLLECTION_KEYS))
    if unknown:
        raise ConfigurationError(
            f"{where} has no key {unknown[0]!r}; its keys are {', '.join(COLLECTION_KEYS)}"
        )
    told = {key: item for key, item in value.items() if key != "ttl_minutes"}
    return told | {"path": _located(value.get("path"), root)}


def _located(path: Any, root: str | None) -> Any:
    """A path without "~" and no longer relative; anything else as it is."""
    if not isinstance(path, (str, Path)) or not str(path).strip():
        return path
    try:
        return Path(root or "", Path(path).expanduser())
    except RuntimeError:
        raise ConfigurationError(
            f"{PREFIX}COLLECTIONS has {str(path)!r}, but whose home is not known"
        ) from None


def _check_apart(config: Mapping[str, Any], api_prefix: str, page_prefix: str) -> None:
    """Hold that neither the API nor the page is mounted where the other one answers everything."""
    prefixes = {f"{PREFIX}API_PREFIX": api_prefix, f"{PREFIX}PAGE_PREFIX": page_prefix}
    must = f"{' and '.join(prefixes)} must be two paths"
    if api_prefix == page_prefix:
        untold = [name for name in prefixes if name not in config]
        which = f", which is the default of {untold[0]}" if untold else ""
        raise ConfigurationError(f"{must}, not both {api_prefix!r}{which}")
    if api_prefix.startswith(f"{page_prefix}/") or page_prefix.startswith(f"{api_prefix}/"):
        told = (
            f"{'' if name in config else 'the default '}{prefix!r}"
            for name, prefix in prefixes.items()
        )
        raise ConfigurationError(f"{must}, and not one below the other: {' and '.join(told)}")


# What an address can have as its path, and Werkzeug as a rule without variables.
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[^/?#<\s]+)+")
_A_PREFIX = (
    "a path such as '/team/artifacts', with one slash before each part and none at its end, no"
    " blank, '?', '#' or '<', and no part '.' or '..'"
)


def _is_prefix(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(_PREFIX.fullmatch(value))


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


def _github_token(value: Any) -> str | None:
    """The token, checked; no message shows it."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise ConfigurationError(
            f"{PREFIX}GITHUB_TOKEN must be a text of A-Z, a-z, 0-9 and -._~+/, or None for none"
        )
    return value


def _github_api_url(value: Any) -> str:
    """The address, checked; no message shows it, since a wrong one may hold a password."""
    try:
        return api_root(value if isinstance(value, str) else "")
    except ConfigurationError as error:
        raise ConfigurationError(f"{PREFIX}GITHUB_API_URL is not right: {error}") from None


def _state_folder(value: str | Path | None, instance: str | None) -> Path | None:
    if value is not None:
        return Path(value)
    return None if instance is None else Path(instance, "artifact-cache")


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
