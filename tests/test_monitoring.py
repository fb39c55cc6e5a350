"""What is shipped for Prometheus and Grafana is right, and names nothing that is not told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flask_artifact_cache.metrics import GUARDS, OUTCOMES, SCOPES, TRIGGERS, UPSTREAM_OUTCOMES

from .monitoring import promtool
from .test_metrics import SNAPSHOT, recipe, values

FOLDER = Path(__file__).parent.parent / "docs" / "monitoring"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
TOLD = {f"{name}{end}" for name, (kind, _) in SNAPSHOT.items() for end in SUFFIXES[kind]}


def named(text):
    return set(re.findall(r"\bartifact_cache_\w+", text))


def expressions():
    """What the dashboard asks, with its variables filled in."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m")
            yield re.sub(r"\$(job|instance)", ".*", expression)


def test_promtool_takes_the_alerts():
    done = promtool("check", "rules", FOLDER / "alerts.yml")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 rules found" in done.stdout


def test_the_alerts_pass_their_tests():
    done = promtool("test", "rules", FOLDER / "alerts_test.yml")

    assert (done.returncode, "SUCCESS" in done.stdout) == (0, True), done.stdout + done.stderr


def test_every_alert_has_a_test_that_it_fires_and_one_that_it_does_not():
    alerts = set(re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yml").read_text()))
    tested = re.findall(
        r"alertname: (\w+)\n +eval_time: .*\n +exp_alerts:(.*)",
        (FOLDER / "alerts_test.yml").read_text(),
    )

    assert alerts
    for alert in alerts:
        assert {quiet.strip() for name, quiet in tested if name == alert} == {"", "[]"}


@pytest.mark.parametrize("file", ["alerts.yml", "alerts_test.yml", "dashboard.json"])
def test_every_metric_that_is_named_is_told(file):
    found = named((FOLDER / file).read_text())

    assert found
    assert found <= TOLD


def test_every_metric_is_on_the_dashboard():
    shown = set().union(*map(named, expressions()))

    kinds = {re.sub("_(total|bucket|count|sum)$", "", name) for name in shown}
    assert kinds == set(SNAPSHOT)


def test_promtool_understands_what_the_dashboard_asks(tmp_path):
    # JSON is YAML.
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions())
    ]
    (tmp_path / "rules.yml").write_text(
        json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})
    )

    done = promtool("check", "rules", tmp_path / "rules.yml")

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_labels_that_alerts_ask_for_are_told():
    text = (FOLDER / "alerts.yml").read_text()
    known = {"state": {"fresh", "stale"}, "outcome": {*OUTCOMES, *UPSTREAM_OUTCOMES}}

    for label, found in re.findall(r'(\w+)=~?"([\w|]+)"', text):
        assert set(found.split("|")) <= known[label]


def test_the_document_names_every_metric_and_every_value_of_a_label():
    text = (FOLDER / "README.md").read_text()

    assert set(re.findall(r"^\| `(artifact_cache_\w+)` \|", text, re.MULTILINE)) == {
        name + ("_total" if kind == "counter" else "") for name, (kind, _) in SNAPSHOT.items()
    }
    for name, (kind, labels) in SNAPSHOT.items():
        shown = name + ("_total" if kind == "counter" else "")
        [row] = re.findall(rf"^\| `{shown}` \| {kind} \| (.*?) ?\|", text, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == labels
    for value in (*GUARDS, *OUTCOMES, *SCOPES, *TRIGGERS, *UPSTREAM_OUTCOMES):
        assert f"`{value}`" in text


# --- the recipes ---------------------------------------------------------------------------------


def test_the_exporter_of_flask_and_ours_share_a_registry(sample, sqlite_url):
    pytest.importorskip(
        "prometheus_flask_exporter", reason="prometheus_flask_exporter is not installed"
    )
    code = f"""
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_artifact_cache import ArtifactCache

app = Flask("host")
app.config["SQLALCHEMY_DATABASE_URI"] = {sqlite_url!r}
app.config["ARTIFACT_CACHE_COLLECTIONS"] = {{"work": {str(sample.root)!r}}}
app.config["ARTIFACT_CACHE_POPULATE_ON_STARTUP"] = False
app.config["ARTIFACT_CACHE_BACKGROUND"] = "none"
db = SQLAlchemy(app)
{recipe("exporter.py")}
with app.app_context():
    db.create_all()
    artifact_cache.service.populate("work")
client = app.test_client()
client.get("/api/v1/user-collections/work/artifacts")
print(client.get("/metrics").text)
"""
    # The exporter watches itself for a reloader.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment
    )

    assert done.returncode == 0, done.stderr
    told = values(done.stdout)
    assert told["artifact_cache_hits_total"] == 1
    assert told[("artifact_cache_artifacts", "work", "fresh")] == 6
    assert any(key[0] == "flask_http_request_total" for key in told)


def test_a_registry_beside_a_multiprocess_collector_tells_all(sample, sqlite_url, tmp_path):
    (tmp_path / "shared").mkdir()
    code = f"""
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from flask_artifact_cache import ArtifactCache

app = Flask("host")
app.config["SQLALCHEMY_DATABASE_URI"] = {sqlite_url!r}
app.config["ARTIFACT_CACHE_COLLECTIONS"] = {{"work": {str(sample.root)!r}}}
app.config["ARTIFACT_CACHE_POPULATE_ON_STARTUP"] = False
app.config["ARTIFACT_CACHE_BACKGROUND"] = "none"
db = SQLAlchemy(app)
registry = CollectorRegistry()
MultiProcessCollector(registry)
artifact_cache = ArtifactCache(app, db, registry=registry)
Counter("host_requests", "Its own.").inc()
{recipe("metrics.py")}
with app.app_context():
    db.create_all()
    artifact_cache.service.populate("work")
    app.test_client().get("/api/v1/user-collections/work/artifacts")
    print(metrics().get_data(as_text=True), "=====")
print(generate_latest(registry).decode(), "=====")
print(app.test_client().get("/api/v1/user-collections/metrics").text)
"""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment
    )

    assert done.returncode == 0, done.stderr
    in_view, given, ours = done.stdout.split("=====")
    for text in (in_view, given, ours):
        told = values(text)
        assert told["artifact_cache_hits_total"] == 1
        assert told[("artifact_cache_artifacts", "work", "fresh")] == 6
        assert ("host_requests_total" in told) == (text is not ours)
        assert text.count("# TYPE artifact_cache_hits_total") == 1
