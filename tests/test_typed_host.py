"""The module that mypy checks does what it says, too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def test_the_typed_host_works(sample, monkeypatch):
    file = Path(__file__).parent / "typing" / "host.py"
    spec = importlib.util.spec_from_file_location("typed_host", file)
    host = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "typed_host", host)  # SQLAlchemy looks annotations up there
    spec.loader.exec_module(host)
    app, cache = host.create_app(sample.root)

    with app.app_context():
        host.db.create_all()
        assert host.services(cache, sample.root) == 6
        host.db.session.add(host.Bookmark(artifact_id=1))
        host.columns(
            host.db.session.get(host.Artifact, 1),
            host.db.session.get(host.Collection, "work"),
            host.db.session.scalars(host.select(host.CollectionArtifact)).first(),
        )
        assert host.queries() == 1
        host.db.session.remove()
        host.db.engine.dispose()
