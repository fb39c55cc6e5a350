"""A small host application: migrate, populate, serve, watch, until Ctrl-C.

python examples/demo/app.py [--collection PATH] [--port 8000]
"""

from __future__ import annotations

import argparse
import logging
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from flask import Flask, redirect
from flask_sqlalchemy import SQLAlchemy
from werkzeug import Response
from werkzeug.serving import WSGIRequestHandler, make_server

from flask_artifact_cache import ArtifactCache, database
from flask_artifact_cache.errors import ArtifactCacheError

SAMPLE = Path(__file__).parent / "collection"


class QuietHandler(WSGIRequestHandler):
    """Serves without a line a request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


def create_app(collection: Path, folder: Path, token: str) -> tuple[Flask, ArtifactCache]:
    """The application of a user who has a ``db`` already, with the cache mounted."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{folder / 'demo.db'}"
    app.config["ARTIFACT_CACHE_COLLECTIONS"] = {"default": collection}
    app.config["ARTIFACT_CACHE_TOKENS"] = [token]
    db = SQLAlchemy(app)
    # Only this machine reaches the demo, so whoever does may press the page's button.
    cache = ArtifactCache(app, db, authorize=lambda *_: True)

    @app.get("/")
    def start() -> Response:
        return redirect("/collection/")

    with app.app_context():
        with db.engine.connect() as connection:
            # Readers do not wait for a refresh then.
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with db.engine.begin() as connection:
            command.upgrade(database.alembic_config(connection), "head")
    return app, cache


@contextmanager
def watching(api_url: str, token: str, folder: Path) -> Iterator[None]:
    """The daemon beside the app; without a list of collections it asks the app for them."""
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    options = {
        "--api-url": api_url,
        "--token-file": str(token_file),
        "--state-dir": str(folder / "state"),
        "--interval": "1",
        "--settle": "0.5",
    }
    command = [sys.executable, "-m", "artifact_cache_daemon"]
    arguments = [part for option in options.items() for part in option]
    # A group of its own: Ctrl-C is for the demo, which then ends the daemon.
    with (folder / "daemon.log").open("w") as log:
        daemon = subprocess.Popen([*command, *arguments], stderr=log, start_new_session=True)
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait(10)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="Serve the artifacts of a folder.")
    parser.add_argument("--collection", type=Path, default=SAMPLE, help="default: a sample")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000, or any free one")
    arguments = parser.parse_args()
    collection = arguments.collection.expanduser()
    # What it would say of a refresh is said below, or on the page.
    logging.getLogger("flask_artifact_cache.refreshes").addHandler(logging.NullHandler())
    if not collection.is_dir():
        parser.error(f"there is no folder '{collection}'")

    with tempfile.TemporaryDirectory() as folder:
        token = secrets.token_urlsafe()
        app, cache = create_app(collection, Path(folder), token)
        try:
            with app.app_context():
                report = cache.service.populate("default")
        except ArtifactCacheError as error:
            parser.error(f"{error} ({collection})")
        port = arguments.port if _is_free(arguments.port) else 0
        server = make_server("127.0.0.1", port, app, threaded=True, request_handler=QuietHandler)
        host = f"http://127.0.0.1:{server.port}"
        wrong = f" (errors: {len(report.errors)}, see {host}/collection/default/problems)"
        base = f"{host}/api/v1/user-collections"
        print(
            f"Page:     {host}/collection/default\n"
            f"Listing:  {base}/default/artifacts\n"
            f"Search:   {base}/default/artifacts?q=review\n"
            f"Facets:   {base}/default/facets\n\n"
            f"Read {report.created} artifacts in {report.duration_seconds:.2f} s"
            f" from {collection}{wrong if report.errors else ''}.\n"
            "The daemon watches that folder: edit a file, and the listing shows it."
        )

        def stop(*_: object) -> None:
            # A terminal and tox each send one, and tox another kind soon; all but the first would
            # kill what is ending.
            for one in (signal.SIGINT, signal.SIGTERM):
                signal.signal(one, signal.SIG_IGN)
            raise SystemExit(0)

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        print("\nCtrl-C ends it.", flush=True)
        try:
            with watching(base, token, Path(folder)):
                server.serve_forever()
        finally:
            server.server_close()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


if __name__ == "__main__":
    main()
