"""A real Chromium, and hosts that serve it: what the tests of the page in a browser stand on."""

from __future__ import annotations

import json
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from werkzeug.serving import WSGIRequestHandler, make_server

from flask_artifact_cache import ArtifactCache

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
# All of WCAG that can be tested, up to 2.2 AA.
TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa")


def chromium():
    """Where Chromium is; None: nowhere."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Quiet(WSGIRequestHandler):
    def log_request(self, code="-", size="-"):
        pass


@contextmanager
def serving(app):
    """Serve an app on a free port; its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def host(folder, collections, **options):
    """A host with its database in a folder, and the service."""
    app = Flask("host")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{folder / 'host.db'}"
    app.config["ARTIFACT_CACHE_POPULATE_ON_STARTUP"] = False
    app.config["ARTIFACT_CACHE_COLLECTIONS"] = collections
    authorize = options.pop("authorize", None)
    app.config.update(options)
    db = SQLAlchemy(app)
    cache = ArtifactCache(app, db, authorize=authorize)
    with app.app_context():
        with db.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        db.create_all()
        return app, cache.service


def axe_source():
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")


def violations(page):
    """What axe, which is in the page already, finds wrong: the rule and the element of each."""
    # A row of a list is like the one above it.
    within = {"exclude": [".ac-item:nth-child(n+9)"]}
    # In full of what is wrong alone; of all else only the rules.
    options = {"runOnly": {"type": "tag", "values": TAGS}, "resultTypes": ["violations"]}
    found = page.evaluate(
        "([within, options]) => axe.run(within, options).then(found => JSON.stringify("
        "[found.violations, found.passes.length]))",
        [within, options],
    )
    broken, passes = json.loads(found)
    assert passes > 5
    return [
        f"{one['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for one in broken
        for node in one["nodes"]
    ]
