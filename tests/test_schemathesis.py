"""Requests made up from the OpenAPI document, right and wrong ones, meet what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from werkzeug.serving import make_server

# As a command, since importing it would bring its pytest plugin's ideas of this suite along.
pytest.importorskip("schemathesis", reason="schemathesis is not installed")

API = "/api/v1/user-collections"
TOKEN = "a-token-for-schemathesis"
# Of each operation, in each phase.
EXAMPLES = os.environ.get("ARTIFACT_CACHE_TEST_EXAMPLES", "5")

# What is right may be known already; what is wrong may be too long to look at. A cursor that was
# made up is refused, and no schema can tell one from a real one; so is the confirmation of a
# refresh that never was.
CONFIGURATION = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 304, 404]
negative_data_rejection.expected-statuses = [400, 401, 404, 405, 413, 415]

[[operations]]
include-path = "/{collection_id}/artifacts"
checks.positive_data_acceptance.expected-statuses = ["2xx", 304, 400, 404]

[[operations]]
include-path = "/changes"
checks.positive_data_acceptance.expected-statuses = ["2xx", 304, 400, 404]

[[operations]]
include-path = "/problems"
checks.positive_data_acceptance.expected-statuses = ["2xx", 304, 400, 404]

[[operations]]
include-path = "/refresh-metadata"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 409]
"""


@pytest.fixture
def served(make_app, sqlite_url, sample, populate):
    """The address of a real server with a small collection."""
    sample.write("skills/broken/SKILL.md", "---\n- a\n- b\n---\n")
    app = make_app(
        sqlite_url,
        {"work": sample.root},
        ARTIFACT_CACHE_TOKENS=[TOKEN],
        ARTIFACT_CACHE_BACKGROUND="none",  # or one request may be in the way of another
        ARTIFACT_CACHE_SYNC_LIMIT=None,
        ARTIFACT_CACHE_REFRESH_LIMIT=None,
    )
    populate(app)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}{API}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_answer_is_as_documented(served, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    options = {
        "--seed": "20260301",
        "--max-examples": EXAMPLES,
        "--mode": "all",
        "--checks": "all",
        "--header": f"Authorization: Bearer {TOKEN}",
        "--max-failures": "20",
    }
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served}/openapi.json"]
    done = subprocess.run(
        [*command, *(part for option in options.items() for part in option), "--no-color"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )

    # It shows whole bodies, and some are long.
    shown = "\n".join(line[:300] for line in done.stdout.splitlines())
    assert done.returncode == 0, shown[-20_000:] + done.stderr
