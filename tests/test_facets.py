"""The values that members are found by, on every database."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from flask_artifact_cache.models import FacetValue
from flask_artifact_cache.refresh import facets
from flask_artifact_cache.refresh.records import facet_value, value_id

from .cached import Cache

MANIFEST = """\
[collection]
name = "work"

[[artifacts]]
name = "tidy"
type = "command"
path = "commands/tidy.md"
origin = "local"
tags = ["pdf ", "pdf", " "]
"""
_KEPT = FacetValue.__table__.c


@pytest.fixture
def engine(make_app, tables_url):
    app = make_app(tables_url)
    with app.app_context():
        return app.extensions["sqlalchemy"].engine


def test_blanks_around_a_value_make_no_other_one(engine, sample, clock):
    sample.write("commands/tidy.md", "Tidy.\n")
    sample.write("commands/read.md", "---\ntags: [PDF]\n---\nRead.\n")
    sample.write("collection.toml", MANIFEST)
    cache = Cache(engine, sample.root, clock=clock)
    cache.refresh()
    sample.write("commands/tidy.md", "Tidy up.\n")
    cache.refresh()

    with engine.connect() as connection:
        found = connection.execute(
            sa.select(_KEPT.id, _KEPT.value, _KEPT.members).where(
                _KEPT.facet == "tag", _KEPT.value.in_(["pdf", ""])
            )
        ).all()
    assert [tuple(row) for row in found] == [(value_id("work", "tag", "pdf"), "pdf", 2)]


def test_a_value_that_another_one_has_just_removed_is_there_again(engine):
    """As when the last artifact with a tag leaves one gathered collection for another one."""
    value = ("default", "tag", "moved")
    with engine.begin() as connection:
        facets._move(connection, {value: 1})
    with engine.connect() as late:
        # MariaDB goes on to show what there is now.
        assert late.scalar(sa.select(sa.func.count()).select_from(FacetValue)) == 1
        if engine.dialect.name == "sqlite":
            late.rollback()  # there, nobody writes beside another one
        with engine.begin() as early:
            facets._move(early, {value: -1})
        facets._move(late, {value: 1})
        late.commit()

    with engine.connect() as connection:
        rows = connection.execute(sa.select(_KEPT.id, _KEPT.members)).all()
    assert [tuple(row) for row in rows] == [(value_id(*value), 1)]


def test_the_key_of_a_value_is_the_same_for_ever():
    assert value_id("work", "tag", "pdf") == 5579638498824238984
    assert facet_value(" Straße ") == "strasse"
    # Neither part can run into the next one.
    assert value_id("a", "b", "cd") != value_id("a", "bc", "d")
