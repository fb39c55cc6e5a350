"""Every option: its name, default, meaning and check; from flags, the environment and a file."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "ARTIFACT_CACHE_DAEMON_"
TOKEN_VARIABLE = "ARTIFACT_CACHE_TOKEN"  # noqa: S105 - the name of one
DEFAULT_PREFIX = "/api/v1/user-collections"
UNIT = "unit"
DROP_INS = ("restart", "home")
EXIT_USAGE = 64
EXIT_CONFIGURATION = 78

_COLLECTION_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}").fullmatch
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|sec|min|m|h|d)?").fullmatch
_UNITS_S = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*").fullmatch
_MAX_TOKEN_BYTES = 65_536


class ConfigurationError(Exception):
    """What is configured wrongly, in a sentence that names it."""


@dataclass(frozen=True, slots=True)
class Option:
    """Something that can be set.

    :ivar name: in the file; the flag and the variable are made from it.
    :ivar default: as it would be written; empty if there is none, or if it depends.
    :ivar check: turns what was written into what is used.
    """

    name: str
    default: str
    meaning: str
    check: Callable[[Any], Any]
    metavar: str = "TEXT"

    @property
    def flag(self) -> str:
        """On the command line."""
        name = "collection" if self.name == "collections" else self.name
        return "--" + name.replace("_", "-")

    @property
    def variable(self) -> str:
        """In the environment."""
        return PREFIX + self.name.upper()


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("must be a text")
    return value


def _path(value: Any) -> Path:
    return Path(os.path.abspath(Path(_text(value)).expanduser()))  # noqa: PTH100 - keeps links


def _url(value: Any) -> str:
    text = _text(value)
    if text.startswith("unix:"):
        socket_path, _, prefix = text.removeprefix("unix:").partition(":")
        if not socket_path.startswith(("/", "@")) or (prefix and not prefix.startswith("/")):
            raise ValueError("must be like unix:/run/app.sock:/api/v1/user-collections")
        return text
    match = re.fullmatch(r"https?://([^/?#\s]+)(/[^?#\s]*)?", text)
    if match is None:
        raise ValueError("must be an address that begins with http://, https:// or unix:/")
    if "@" in match[1]:
        raise ValueError("must not contain a user or a password; use --token-file")
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:\d{1,5})?", match[1]):
        raise ValueError("must contain a host, and a number as its port")
    return text


def _duration(low_s: float, high_s: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        seconds = None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
        elif isinstance(value, str) and (match := _DURATION(value.strip())):
            seconds = float(match[1]) * _UNITS_S[match[2] or "s"]
        if seconds is None or not low_s <= seconds <= high_s:
            raise ValueError(
                f"must be seconds from {low_s:g} to {high_s:g}, or a text such as '30 min'"
            )
        return seconds

    return check


def _minutes(value: Any) -> float:
    try:
        minutes = float(value) if not isinstance(value, bool) else -1.0
    except (TypeError, ValueError):
        minutes = -1.0
    if not 0 <= minutes <= 525_600:
        raise ValueError("must be a number of minutes, at most a year")
    return minutes


def _format(value: Any) -> str:
    if value not in ("text", "json"):
        raise ValueError("must be 'text' or 'json'")
    return str(value)


def _flag(value: Any) -> bool:
    known = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
    if not isinstance(value, (bool, str)) or value not in known:
        raise ValueError("must be true or false")
    return known[value]


def _collections(value: Any) -> dict[str, str]:
    """A mapping, or texts of the form ``ID=PATH``: a list of them, or lines in one."""
    if isinstance(value, str):
        value = [line for line in value.splitlines() if line.strip()]
    if isinstance(value, list):
        pairs = []
        for one in value:
            name, separator, path = str(one).strip().partition("=")
            if not separator:
                raise ValueError(f"must be ID=PATH, not {one!r}")
            pairs.append((name, path))
        if len(dict(pairs)) < len(pairs):
            raise ValueError("must not name a collection twice")
        value = dict(pairs)
    if not isinstance(value, Mapping):
        raise ValueError("must be a table of ids and paths")  # noqa: TRY004 - told as any other
    return {name: checked_root(name, path) for name, path in value.items()}


def checked_root(collection_id: Any, path: Any) -> str:
    """The folder of a collection as it is used, whoever named it.

    :raises ValueError: if it is none, or the id is none; to be read after who named them.
    """
    if not isinstance(collection_id, str) or not _COLLECTION_ID(collection_id):
        raise ValueError(
            f"names {collection_id!r}; an id is 1 to 64 of a-z, 0-9, '.', '_' and '-', starting"
            " with a letter or digit"
        )
    try:
        return str(_path(path))
    except ValueError:
        raise ValueError(f"names no folder for {collection_id!r}") from None


OPTIONS = (
    Option(
        "api_url",
        f"http://127.0.0.1:5000{DEFAULT_PREFIX}",
        "where the app's JSON API is; also `unix:/run/app.sock:/prefix`",
        _url,
        "URL",
    ),
    Option(
        "token_file",
        "",
        "a file with the token, readable by its owner only",
        _path,
        "FILE",
    ),
    Option(
        "collections",
        "",
        "which folder is which collection; repeatable; without any, the app is asked",
        _collections,
        "ID=PATH",
    ),
    Option("interval", "5 s", "between two looks at a folder", _duration(0.05, 86_400), "TIME"),
    Option(
        "full_interval",
        "30 min",
        "between two refreshes of all that has not been verified for `ttl_minutes`",
        _duration(1, 7 * 86_400),
        "TIME",
    ),
    Option(
        "settle",
        "1 s",
        "how long a file has to stay the same before the app is told of it",
        _duration(0.02, 3600),
        "TIME",
    ),
    Option(
        "max_settle",
        "30 s",
        "how long the app waits at most for a file that keeps changing",
        _duration(0.1, 86_400),
        "TIME",
    ),
    Option(
        "ttl_minutes",
        "30",
        "the app's `ARTIFACT_CACHE_TTL_MINUTES`",
        _minutes,
        "MINUTES",
    ),
    Option(
        "timeout",
        "60 s",
        "how long to wait for an answer of the app",
        _duration(0.1, 3600),
        "TIME",
    ),
    Option(
        "state_dir",
        "",
        "what the app has acknowledged is kept here; by default `$STATE_DIRECTORY`, or else"
        " `~/.local/state/artifact-cache-daemon`",
        _path,
        "DIR",
    ),
    Option("status_file", "", "a JSON file that says how things are", _path, "FILE"),
    Option("log_format", "text", "`text` or `json`, one line each", _format, "FORMAT"),
    Option(
        "watch",
        "false",
        "whether to look at once when the system tells of a change (needs the extra `watch`)",
        _flag,
        "",
    ),
)
BY_NAME = {option.name: option for option in OPTIONS}


@dataclass(slots=True)
class Token:
    """The token that the app knows us by, and where it comes from; two are equal if both are.

    :ivar source: for people; says nothing of the token.
    """

    read: Callable[[], str | None] = field(repr=False, compare=False)
    source: str = "nowhere"
    value: str | None = field(default=None, repr=False)

    def reload(self) -> bool:
        """Read it again; whether it is another one now. What cannot be read changes nothing."""
        try:
            value = self.read()
        except ConfigurationError:
            return False
        changed = value != self.value
        self.value = value
        return changed


@dataclass(frozen=True, slots=True)
class Settings:
    """All options, checked.

    :ivar token: shows itself to nobody.
    :ivar warnings: what works, but should be said.
    """

    api_url: str
    collections: dict[str, str]
    interval: float
    full_interval: float
    settle: float
    max_settle: float
    ttl_minutes: float
    timeout: float
    state_dir: Path
    status_file: Path | None
    log_format: str
    watch: bool
    token: Token
    warnings: tuple[str, ...] = ()


class Parser(argparse.ArgumentParser):
    """Ends with the exit code for wrong usage, as sysexits.h has it."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The command line, made from the options."""
    made = Parser(
        prog="artifact-cache-daemon",
        description="Watches artifact files and tells a Flask app with flask-artifact-cache which"
        " of them have changed.",
        allow_abbrev=False,
    )
    made.add_argument("--config", metavar="FILE", help="a TOML file with these options")
    for option in OPTIONS:
        default = f" (default: {option.default})" if option.default else ""
        text = (option.meaning + default).replace("`", "").replace("%", "%%")
        more: dict[str, Any] = {"metavar": option.metavar}
        if option.name == "collections":
            more["action"] = "append"
        elif option.name == "watch":
            more = {"action": "store_const", "const": True}
        made.add_argument(option.flag, dest=option.name, help=text, default=None, **more)
    made.add_argument(
        "--once", action="store_true", help="look, tell the app, and end; 1 if that failed"
    )
    made.add_argument(
        "--check-config", action="store_true", help="say whether the configuration is valid"
    )
    made.add_argument(
        "--print-unit",
        nargs="?",
        const=UNIT,
        choices=(UNIT, *DROP_INS),
        metavar="DROP-IN",
        help=f"print the unit for systemd, or a drop-in for it: {' or '.join(DROP_INS)}",
    )
    return made


def load(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Settings:
    """All options: from the flags, or else the environment, or else the file, or else defaults.

    :raises ConfigurationError: naming what is wrong.
    """
    config = arguments.config or environ.get(f"{PREFIX}CONFIG")
    written = _file(Path(config).expanduser()) if config else {}
    values: dict[str, Any] = {}
    for option in OPTIONS:
        given = getattr(arguments, option.name, None)
        if given is not None:
            values[option.name] = _checked(option, given, option.flag)
        elif option.variable in environ:
            values[option.name] = _checked(option, environ[option.variable], option.variable)
        elif option.name in written:
            values[option.name] = _checked(option, written[option.name], f"{option.name}")
        else:
            values[option.name] = option.check(option.default) if option.default else None
    if values["max_settle"] < values["settle"]:
        raise ConfigurationError("max_settle must not be less than settle")
    for variable in environ:
        if variable.startswith(PREFIX) and variable != f"{PREFIX}CONFIG":
            _known(variable, {option.variable: option for option in OPTIONS})
    warnings: list[str] = []
    token = _token(values.pop("token_file"), environ, warnings)
    if _is_open(values["api_url"]) and token.value:
        warnings.append("the token is sent without encryption: api_url is http:// to another host")
    if values["state_dir"] is None:
        values["state_dir"] = _state_dir(environ)
    if values["watch"]:
        _require_watchfiles()
    values["collections"] = values["collections"] or {}
    return Settings(**values, token=token, warnings=tuple(warnings))


def _checked(option: Option, value: Any, name: str) -> Any:
    try:
        return option.check(value)
    except ValueError as error:
        raise ConfigurationError(f"{name} {error}") from None


def _known(name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        also = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
        raise ConfigurationError(f"{name} is not an option of the daemon{also}")


def _file(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as lines:
            values = tomllib.load(lines)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from None
    for name in values:
        _known(name, BY_NAME)
    return values


def _state_dir(environ: Mapping[str, str]) -> Path:
    # A service manager may name several, separated by colons.
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    base = environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return Path(base) / "artifact-cache-daemon"


def _is_open(url: str) -> bool:
    host = re.match(r"http://(\[[^\]]+\]|[^:/]+)", url)
    return host is not None and not re.fullmatch(r"localhost|127\.[\d.]+|\[::1\]", host[1])


def _require_watchfiles() -> None:
    import importlib.util

    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigurationError("watch needs the package watchfiles: install the extra 'watch'")


def _token(file: Path | None, environ: Mapping[str, str], warnings: list[str]) -> Token:
    """The token: systemd's credential first, then a file, then the environment."""
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(credentials) / "token" if credentials else None
    if credential is not None and _is_there(credential):
        # The service manager sees to it that nobody else can read it.
        token = _from_file(credential, private=False)
    elif file is not None:
        token = _from_file(file, private=True)
    elif environ.get(TOKEN_VARIABLE):
        warnings.append(
            f"the token comes from {TOKEN_VARIABLE}, which child processes and /proc show;"
            " token_file or LoadCredential= is safer"
        )
        token = Token(lambda: _valid(environ[TOKEN_VARIABLE], TOKEN_VARIABLE), TOKEN_VARIABLE)
    else:
        warnings.append("there is no token; the app will refuse unless its 'authorize' allows us")
        token = Token(lambda: None)
    token.value = token.read()
    return token


def _is_there(credential: Path) -> bool:
    """Whether systemd has given us a token; one that cannot be reached is not a missing one."""
    try:
        credential.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"systemd's credential {credential}: {error.strerror}") from None
    return True


def _from_file(file: Path, *, private: bool) -> Token:
    def read() -> str:
        try:
            with file.open("rb") as stream:
                mode = os.fstat(stream.fileno()).st_mode
                data = stream.read(_MAX_TOKEN_BYTES)
        except OSError as error:
            raise ConfigurationError(f"token file {file}: {error.strerror}") from None
        if private and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                f"token file {file} can be read by others: run chmod 600 {file}"
            )
        return _valid(data.decode("ascii", "replace"), f"token file {file}")

    return Token(read, str(file))


def _valid(text: str, source: str) -> str:
    """A token that can stand in a header; no message shows it."""
    token = text.strip()
    if not _TOKEN(token):
        raise ConfigurationError(
            f"{source} must hold one token of A-Z, a-z, 0-9 and -._~+/ that may end with ="
        )
    return token
