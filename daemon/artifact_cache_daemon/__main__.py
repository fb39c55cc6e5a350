"""The command: arguments, logging, signals; then the loop."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .logs import LOGGER, configure
from .settings import (
    EXIT_CONFIGURATION,
    EXIT_USAGE,
    UNIT,
    ConfigurationError,
    Settings,
    load,
    parser,
)

log = logging.getLogger(LOGGER)

# Somebody else holds the state; unlike a wrong configuration, that may pass.
EXIT_LOCKED = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; the exit code."""
    options = parser().parse_args(arguments)
    if options.print_unit:
        sys.stdout.write(unit() if options.print_unit == UNIT else drop_in(options.print_unit))
        return 0
    configure(options.log_format if options.log_format in ("text", "json") else "text")
    try:
        settings = load(options)
    except ConfigurationError as error:
        log.error("%s", error)
        return EXIT_USAGE if str(error).startswith("--") else EXIT_CONFIGURATION
    configure(settings.log_format)
    if options.check_config:
        return check(settings)
    # Only now: a wrong configuration is said without loading an HTTP library.
    try:
        from .loop import Loop
        from .once import once
    except ModuleNotFoundError as error:
        log.error("%s is missing: pip install 'flask-artifact-cache[daemon]'", error.name)
        return EXIT_CONFIGURATION
    from .state import LockedError, Store

    try:
        store = Store(settings.state_dir)
    except LockedError as error:
        log.error("%s", error)
        return EXIT_LOCKED
    except OSError as error:
        log.error("state_dir %s: %s", settings.state_dir, error.strerror)
        return EXIT_CONFIGURATION
    if options.once:
        return once(settings, store)
    runs = Loop(settings, store, load=lambda: load(options))
    runs.signals.install()
    return runs.run()


def check(settings: Settings) -> int:
    """Say what the configuration comes to, and what about it may be a mistake."""
    for warning in settings.warnings:
        log.warning("%s", warning)
    for collection_id, root in settings.collections.items():
        if not Path(root).is_dir():
            log.warning("there is no folder %s now", root, extra={"collection": collection_id})
    roots = ", ".join(f"{name}={root}" for name, root in settings.collections.items())
    sys.stdout.write(
        f"The configuration is valid: {settings.api_url}, {roots or 'collections by the app'},"
        f" a look every {settings.interval:g} s, state in {settings.state_dir}\n"
    )
    return 0


def unit() -> str:
    """The unit for systemd, with the command as it is installed here."""
    text = Path(__file__).with_name("artifact-cache-daemon.service").read_text(encoding="utf-8")
    beside = Path(sys.executable).with_name("artifact-cache-daemon")
    command = str(beside) if beside.exists() else shutil.which("artifact-cache-daemon")
    words = [command] if command else [sys.executable, "-m", "artifact_cache_daemon"]
    quoted = " ".join(f'"{word}"' if " " in word else word for word in words)
    return text.replace("/usr/bin/artifact-cache-daemon", quoted.replace("%", "%%"))


def drop_in(name: str) -> str:
    """What changes the unit for some: one of ``DROP_INS``."""
    return Path(__file__).with_name(f"{name}.conf").read_text(encoding="utf-8")


def run() -> None:
    """Run, and end even if a thread hangs in a call that never returns."""
    try:
        code = main()
    except KeyboardInterrupt:
        code = 130
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
