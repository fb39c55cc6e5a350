"""Files become rows, and nothing is lost on the way."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_artifact_cache import (
    ArtifactManager,
    CollectionManager,
    migrate_artifacts_to_default_collection,
    populate_artifact_metadata,
)
from flask_artifact_cache.errors import (
    BusyError,
    ConfigurationError,
    InvalidRequestError,
    RootUnavailableError,
)
from flask_artifact_cache.models import (
    Artifact,
    Collection,
    CollectionArtifact,
    Facet,
    FacetValue,
    RefreshRun,
    SearchText,
)
from flask_artifact_cache.refresh import lease, store
from flask_artifact_cache.refresh.report import Report
from flask_artifact_cache.refresh.transactions import on_engine

from .cached import later


def rows(app, statement):
    with app.app_context():
        return app.extensions["sqlalchemy"].session.execute(statement).all()


def scalar(app, statement):
    with app.app_context():
        return app.extensions["sqlalchemy"].session.scalar(statement)


@pytest.fixture
def empty_app(make_app, tables_url, sample, clock):
    return make_app(tables_url, {"work": sample.root}, clock=clock)


def test_every_artifact_on_disk_becomes_a_row(empty_app, populate, sample):
    report = populate(empty_app)

    on_disk = len(ArtifactManager(sample.root).list())
    assert on_disk == 6
    assert report.created == on_disk
    synced = sa.select(sa.func.count()).where(Artifact.synced_at.is_not(None))
    assert scalar(empty_app, synced) == on_disk
    for table in (CollectionArtifact, SearchText):
        assert scalar(empty_app, sa.select(sa.func.count()).select_from(table)) == on_disk


def test_the_columns_hold_what_the_file_declares(empty_app, populate, clock):
    populate(empty_app)

    [(pdf,)] = rows(empty_app, sa.select(Artifact).where(Artifact.name == "pdf"))
    assert (pdf.artifact_id, pdf.path) == ("skill:pdf", "skills/pdf/SKILL.md")
    assert (pdf.description, pdf.license, pdf.tags) == (
        "Reads PDF files.",
        "MIT",
        ["documents", "Reading"],
    )
    assert (pdf.tools, pdf.origin, pdf.error, pdf.file_count) == (None, "local", None, 1)
    assert pdf.synced_at == clock.now
    [(charts,)] = rows(empty_app, sa.select(Artifact).where(Artifact.name == "charts"))
    assert charts.version == "2.10"


def test_a_second_populate_with_nothing_changed_writes_no_metadata(empty_app, populate, clock):
    # Or the files come of age between the two, and then their evidence is noted.
    service = empty_app.extensions["artifact_cache"].service
    service.collections.artifacts("work").clock_ns = later
    populate(empty_app)
    before = rows(empty_app, sa.select(Artifact.uid, Artifact.updated_at, Artifact.payload))
    clock.pass_(hours=1)
    written: list[str] = []

    with empty_app.app_context():
        engine = empty_app.extensions["sqlalchemy"].engine
    sa.event.listen(
        engine,
        "before_cursor_execute",
        lambda _, __, statement, *___: written.append(statement),
    )
    report = populate(empty_app)

    assert (report.created, report.updated, report.removed, report.unchanged) == (0, 0, 0, 6)
    assert rows(empty_app, sa.select(Artifact.uid, Artifact.updated_at, Artifact.payload)) == before
    tables = {
        re.sub(r"(INSERT INTO|DELETE FROM|UPDATE) (\w+).*", r"\2", statement, flags=re.DOTALL)
        for statement in written
        if statement.startswith(("INSERT", "UPDATE", "DELETE"))
    }
    assert tables == {"artifact_cache_collection", "artifact_cache_refresh_run"}


def test_an_edit_is_read_and_its_old_values_are_found_no_more(empty_app, populate, sample, clock):
    populate(empty_app)
    clock.pass_(minutes=5)
    sample.skill("pdf", "Reads and writes PDF files.", tags="[office]")

    report = populate(empty_app)

    assert (report.updated, report.unchanged) == (1, 5)
    [(pdf,)] = rows(empty_app, sa.select(Artifact).where(Artifact.name == "pdf"))
    assert (pdf.description, pdf.updated_at) == ("Reads and writes PDF files.", clock.now)
    tags = rows(empty_app, sa.select(FacetValue.value).where(FacetValue.facet == "tag"))
    assert {tag for (tag,) in tags} == {"office", "documents", "data"}


def test_the_kept_counts_are_those_of_the_rows(gathered, populate, sample, private):
    def compare():
        counted = rows(
            gathered, sa.select(Facet.value_id, sa.func.count()).group_by(Facet.value_id)
        )
        kept = rows(gathered, sa.select(FacetValue.id, FacetValue.members))
        assert {tuple(row) for row in kept} == {tuple(row) for row in counted}
        return len(kept)

    alone = compare()
    populate(gathered, "home")
    assert compare() > alone
    sample.skill("pdf", "Reads PDF files.", tags="[office, Data]", author="Grace Example")
    populate(gathered, "work")
    compare()
    (private / "skills" / "mine").mkdir(exist_ok=True)
    (private / "skills" / "mine" / "SKILL.md").write_text("---\nname: mine\ntags: [own]\n---\n")
    shutil.rmtree(sample.root / "skills" / "csv")
    populate(gathered, "home")
    populate(gathered, "work")
    compare()


def test_a_removed_file_leaves_no_row_in_any_table(empty_app, populate, sample):
    populate(empty_app)
    shutil.rmtree(sample.root / "skills" / "pdf")

    assert populate(empty_app).removed == 1

    for table in (Artifact, CollectionArtifact, SearchText):
        assert scalar(empty_app, sa.select(sa.func.count()).select_from(table)) == 5
    assert scalar(empty_app, sa.select(sa.func.count()).where(FacetValue.value == "reading")) == 0


def test_a_file_that_breaks_keeps_its_last_good_data(empty_app, populate, sample, clock):
    populate(empty_app)
    clock.pass_(minutes=5)
    (sample.root / "skills/pdf/SKILL.md").write_bytes(b"\x00\x01\x02" * 100)

    report = populate(empty_app)

    assert (report.quarantined, report.removed, report.outcome) == (1, 0, "partial")
    assert [(error["path"], error["code"]) for error in report.errors] == [
        ("skills/pdf/SKILL.md", "E_BINARY")
    ]
    [(pdf,)] = rows(empty_app, sa.select(Artifact).where(Artifact.name == "pdf"))
    assert (pdf.condition, pdf.description) == ("quarantined", "Reads PDF files.")
    assert pdf.error["code"] == "E_BINARY"

    sample.skill("pdf", "Mended.")
    assert populate(empty_app).updated == 1
    [(pdf,)] = rows(empty_app, sa.select(Artifact).where(Artifact.name == "pdf"))
    assert (pdf.condition, pdf.description, pdf.error) == ("ok", "Mended.", None)


def test_a_file_that_was_never_good_is_listed_with_its_error(empty_app, populate, sample):
    sample.write("skills/empty/SKILL.md", "")

    report = populate(empty_app)

    assert (report.created, report.quarantined) == (7, 1)
    [(row,)] = rows(empty_app, sa.select(Artifact).where(Artifact.name == "empty"))
    assert (row.condition, row.error["code"]) == ("quarantined", "E_EMPTY")
    assert populate(empty_app).unchanged == 7


def test_a_dry_run_writes_nothing(empty_app, populate):
    report = populate(empty_app, dry_run=True)

    assert report.created == 6
    for table in (Artifact, Collection, RefreshRun):
        assert scalar(empty_app, sa.select(sa.func.count()).select_from(table)) == 0


def test_a_missing_root_is_said_in_one_sentence_and_changes_no_row(
    empty_app, populate, sample, tmp_path
):
    populate(empty_app)
    sample.root.rename(tmp_path / "elsewhere")

    with pytest.raises(RootUnavailableError, match="does not exist"):
        populate(empty_app)

    assert scalar(empty_app, sa.select(sa.func.count()).select_from(Artifact)) == 6
    assert scalar(empty_app, sa.select(Collection.path_available)) is False
    assert {run for (run,) in rows(empty_app, sa.select(RefreshRun.outcome))} == {
        "succeeded",
        "failed",
    }

    (tmp_path / "elsewhere").rename(sample.root)
    assert populate(empty_app).unchanged == 6
    assert scalar(empty_app, sa.select(Collection.path_available)) is True


@pytest.fixture
def many(collection):
    for number in range(50):
        collection.skill(f"skill-{number:02}")
    return collection


def test_losing_more_than_a_fifth_at_once_needs_a_confirmation(
    make_app, sqlite_url, many, populate, clock
):
    app = make_app(sqlite_url, {"work": many.root}, clock=clock)
    populate(app)
    for number in range(11):
        shutil.rmtree(many.root / f"skills/skill-{number:02}")

    report = populate(app)

    assert (report.withheld, report.removed, report.outcome) == (11, 0, "needs_confirmation")
    missing = sa.select(sa.func.count()).where(Artifact.condition == "missing")
    assert scalar(app, missing) == 11

    with pytest.raises(InvalidRequestError, match="confirmation"):
        populate(app, confirm="0" * 32)
    assert populate(app, confirm=report.refresh_id).removed == 11
    assert scalar(app, sa.select(sa.func.count()).select_from(Artifact)) == 39


def test_losing_a_fifth_is_believed(make_app, sqlite_url, many, populate):
    app = make_app(sqlite_url, {"work": many.root})
    populate(app)
    for number in range(10):
        shutil.rmtree(many.root / f"skills/skill-{number:02}")

    assert populate(app).removed == 10


def test_what_was_missing_and_comes_back_is_as_before(
    make_app, sqlite_url, many, populate, tmp_path
):
    app = make_app(sqlite_url, {"work": many.root})
    populate(app)
    before = rows(app, sa.select(Artifact.id, Artifact.payload).order_by(Artifact.id))
    (many.root / "skills").rename(tmp_path / "skills")
    many.skill("the-only-one")
    assert populate(app).withheld == 50
    shutil.rmtree(many.root / "skills")
    (tmp_path / "skills").rename(many.root / "skills")

    report = populate(app)

    assert (report.withheld, report.removed) == (0, 1)
    assert rows(app, sa.select(Artifact.id, Artifact.payload).order_by(Artifact.id)) == before
    assert scalar(app, sa.select(sa.func.count()).where(Artifact.condition != "ok")) == 0


def test_an_empty_root_is_taken_for_a_missing_mount(empty_app, populate, sample, clock):
    populate(empty_app)
    verified_at = scalar(empty_app, sa.select(Collection.verified_at))
    clock.pass_(minutes=5)
    shutil.rmtree(sample.root)
    sample.root.mkdir()

    report = populate(empty_app)

    assert (report.withheld, report.removed) == (6, 0)
    assert scalar(empty_app, sa.select(sa.func.count()).where(Artifact.condition == "ok")) == 6
    assert scalar(empty_app, sa.select(Collection.path_available)) is False
    assert scalar(empty_app, sa.select(Collection.verified_at)) == verified_at
    assert populate(empty_app, confirm=report.refresh_id).removed == 6


def test_two_populates_of_one_collection_do_not_overlap(empty_app, populate, sample):
    inside, go_on = threading.Event(), threading.Event()

    def wait(done: int, total: int) -> None:
        inside.set()
        go_on.wait(10)

    first = threading.Thread(target=populate, args=(empty_app,), kwargs={"progress": wait})
    first.start()
    assert inside.wait(10)
    try:
        with pytest.raises(BusyError) as caught:
            populate(empty_app)
        assert 1 <= caught.value.retry_after <= 60
    finally:
        go_on.set()
        first.join()
    assert populate(empty_app).unchanged == 6


def test_a_failed_populate_lets_the_next_one_in(empty_app, populate):
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        populate(empty_app, progress=fail)

    assert populate(empty_app).unchanged + populate(empty_app).unchanged >= 6
    assert scalar(empty_app, sa.select(sa.func.count()).select_from(Artifact)) == 6


def test_an_unknown_collection_is_named_with_the_known_ones(empty_app, populate):
    with pytest.raises(ConfigurationError, match=r"'nope' .*configured: work"):
        populate(empty_app, "nope")


def test_the_log_tells_the_figures(empty_app, populate, caplog):
    with caplog.at_level(logging.INFO, logger="flask_artifact_cache"):
        populate(empty_app)

    started, finished = (record.getMessage() for record in caplog.records)
    assert started == "refresh of collection 'work' started (populate)"
    assert "created=6 updated=0 unchanged=0 removed=0" in finished
    assert "quarantined=0" in finished
    assert caplog.records[1].artifact_cache["fields_populated"] > 30


def test_the_caller_of_the_function_owns_the_transaction(empty_app, sample):
    with empty_app.app_context():
        session = empty_app.extensions["sqlalchemy"].session
        report = populate_artifact_metadata(session, ArtifactManager(sample.root), "work")
        assert report.created == 6
        assert session.scalar(sa.select(sa.func.count()).select_from(Artifact)) == 6
        session.rollback()
        assert session.scalar(sa.select(sa.func.count()).select_from(Artifact)) == 0

        populate_artifact_metadata(session, ArtifactManager(sample.root), "work")
        session.commit()
    assert scalar(empty_app, sa.select(sa.func.count()).select_from(Artifact)) == 6


@pytest.fixture
def private(tmp_path: Path):
    root = tmp_path / "private"
    for name in ("pdf", "diary"):
        (root / "skills" / name).mkdir(parents=True)
        (root / "skills" / name / "SKILL.md").write_text(
            f"---\nname: {name}\ndescription: Mine.\n---\n"
        )
    return root


def test_migrating_makes_all_artifacts_members_of_default(
    make_app, tables_url, sample, private, populate
):
    collections = {"work": sample.root, "home": private}
    app = make_app(tables_url, collections)
    manager = CollectionManager(collections)

    with app.app_context():
        session: Session = app.extensions["sqlalchemy"].session
        migrate_artifacts_to_default_collection(session, manager.artifacts("work"), manager)
        session.commit()

    client = app.test_client()
    page = client.get("/api/v1/user-collections/default/artifacts").json
    assert page["page_info"]["total_count"] == 8
    assert {item["collection_id"] for item in page["items"]} == {"work", "home"}
    assert (
        client.get("/api/v1/user-collections/home/artifacts").json["page_info"]["total_count"] == 2
    )

    sample.skill("new-one", tags="[late]")
    populate(app, "work")
    found = client.get("/api/v1/user-collections/default/artifacts?tag=late").json
    assert [item["name"] for item in found["items"]] == ["new-one"]
    shared = client.get("/api/v1/user-collections/default/artifacts/skill:pdf")
    assert shared.status_code == 409
    assert {one["collection_id"] for one in shared.json["candidates"]} == {"work", "home"}


def test_a_collection_that_gathers_is_as_old_as_the_oldest_of_the_others(
    make_app, sqlite_url, sample, private, populate, clock
):
    collections = {"work": sample.root, "home": private}
    app = make_app(sqlite_url, collections, clock=clock)
    manager = CollectionManager(collections)
    with app.app_context():
        session: Session = app.extensions["sqlalchemy"].session
        migrate_artifacts_to_default_collection(session, manager.artifacts("work"), manager)
        session.commit()

    def told():
        [one] = [
            one
            for one in app.test_client().get("/api/v1/user-collections/").json["collections"]
            if one["id"] == "default"
        ]
        return one["last_refreshed_at"]

    def page():
        return app.test_client().get("/collection/default").text

    # A populate in the caller's transaction goes by the clock of the system.
    populate(app, "work")
    populate(app, "home")
    first = told()
    clock.pass_(minutes=10)
    populate(app, "work")
    assert told() == first
    assert f'<time datetime="{first}"' in page()
    clock.pass_(minutes=10)
    populate(app, "home")
    assert told() > first


def test_migrating_twice_changes_nothing(make_app, sqlite_url, sample, private):
    collections = {"work": sample.root, "home": private}
    app = make_app(sqlite_url, collections)
    manager = CollectionManager(collections)
    for _ in range(2):
        with app.app_context():
            session: Session = app.extensions["sqlalchemy"].session
            migrate_artifacts_to_default_collection(session, manager.artifacts("work"), manager)
            session.commit()

    in_default = sa.select(sa.func.count()).where(CollectionArtifact.collection_id == "default")
    assert scalar(app, in_default) == 8


def test_a_manifest_that_breaks_takes_nothing_from_what_it_named(
    make_app, sqlite_url, collection, populate, clock
):
    collection.skill("pdf", "Reads PDF files.")
    manifest = collection.write(
        "collection.toml",
        """
        [collection]
        name = "default"
        version = "1.0.0"
        created = "2026-01-01T00:00:00"
        updated = "2026-01-01T00:00:00"

        [[artifacts]]
        name = "pdf"
        type = "skill"
        path = "skills/pdf"
        origin = "github"
        upstream = "https://github.com/example/skills/tree/main/pdf"
        added = "2026-01-01T00:00:00"

        [[mcp_servers]]
        name = "search"
        repo = "example/search"
        """,
    )
    collection.write(".mcp.json", '{"mcpServers": {"files": {"command": "files"}}}')
    app = make_app(sqlite_url, {"work": collection.root}, clock=clock)
    assert populate(app).created == 3
    clock.pass_(hours=1)
    whole = manifest.read_text()
    manifest.write_text(whole + "\n[[artifacts")
    collection.write(".mcp.json", '{"mcpServers"')

    report = populate(app)

    assert (report.removed, report.withheld, report.outcome) == (0, 0, "partial")
    assert {error["code"] for error in report.errors} >= {"E_TOML", "E_JSON"}
    stored = {row.name: row for (row,) in rows(app, sa.select(Artifact))}
    assert set(stored) >= {"pdf", "search", "files"}
    assert stored["pdf"].origin == "github"
    items = app.test_client().get("/api/v1/user-collections/work/artifacts").json["items"]
    states = {item["name"]: item["state"] for item in items}
    assert set(states.values()) == {"stale"}  # nobody can tell what the manifests say now

    manifest.write_text(whole)
    collection.write(".mcp.json", '{"mcpServers": {}}')
    assert populate(app).removed == 1


def test_an_entry_of_an_unknown_type_loses_nothing_until_it_is_mended(
    make_app, sqlite_url, corpora, tmp_path, populate, clock
):
    root = tmp_path / "every-field"
    shutil.copytree(corpora / "skillmeat-collection/collections/every-field", root)
    # A script is an artifact on the manifest's word alone.
    script = root / "hooks/format.sh"
    script.write_text("exit 0\n", encoding="utf-8")
    manifest = root / "collection.toml"
    whole = manifest.read_text(encoding="utf-8")
    whole += '\n[[artifacts]]\nname = "format"\ntype = "hook"\npath = "hooks/format.sh"\n'
    manifest.write_text(whole, encoding="utf-8")
    app = make_app(sqlite_url, {"work": root}, clock=clock)
    populate(app)
    said = sa.select(Artifact.path, Artifact.type, Artifact.payload).order_by(Artifact.path)
    before = rows(app, said)
    assert {"skills/chart-maker/SKILL.md", "hooks/format.sh"} <= {row.path for row in before}
    broken = whole.replace(
        'name = "chart-maker"\ntype = "skill"', 'name = "chart-maker"\ntype = "widget"'
    )
    broken = broken.replace(
        'type = "hook"\npath = "hooks/format.sh"', 'type = "hok"\npath = "hooks/format.sh"'
    )
    manifest.write_text(broken, encoding="utf-8")
    clock.pass_(hours=1)

    for _ in range(2):
        report = populate(app)

        assert (report.updated, report.removed, report.errors) == (0, 0, [])
        assert rows(app, said) == before
    problems = scalar(app, sa.select(Collection.problems).where(Collection.id == "work"))
    told = [(one["line"], one["message"]) for one in problems if one["code"] == "W_UNKNOWN_TYPE"]
    lines = broken.split("\n")
    assert told == [
        (
            lines.index('type = "widget"') + 1,
            "the entry 'chart-maker' has the unknown type 'widget'",
        ),
        (lines.index('type = "hok"') + 1, "the entry 'format' has the unknown type 'hok'"),
    ]

    mended = broken.replace('"widget"', '"skill"').replace('"hok"', '"hook"')
    manifest.write_text(mended.replace('"latest"', '"v3.0.0"', 1), encoding="utf-8")
    assert (populate(app).updated, populate(app).removed) == (1, 0)
    found = sa.select(Artifact.version_spec).where(Artifact.path == "skills/chart-maker/SKILL.md")
    assert scalar(app, found) == "v3.0.0"


def test_a_lease_that_nobody_wanted_is_still_ours_and_a_lost_one_is_not(empty_app, tables_url):
    with empty_app.app_context():
        engine = empty_app.extensions["sqlalchemy"].engine
        with on_engine(engine).write() as connection:
            store.ensure_collection(connection, "work")
            ours = lease.acquire(connection, "work")
            connection.execute(sa.update(Collection).values(lease_until_ms=1))
            ours.renew(connection)  # a slow disk, and nobody else
            with pytest.raises(BusyError):
                lease.acquire(connection, "work")
            connection.execute(sa.update(Collection).values(lease_until_ms=1))
            lease.acquire(connection, "work")
            with pytest.raises(BusyError, match="taken over"):
                ours.renew(connection)


def in_parallel(*calls):
    """What each call gives or raises, all made at the same time."""
    results = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(number, call):
        barrier.wait()
        try:
            results[number] = call()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results[number] = error

    threads = [threading.Thread(target=run, args=one) for one in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_first_populates_at_the_same_time_do_it_once(empty_app, populate):
    results = in_parallel(*[lambda: populate(empty_app)] * 4)

    assert all(isinstance(one, (Report, BusyError)) for one in results), results
    assert sum(one.created for one in results if isinstance(one, Report)) == 6
    assert scalar(empty_app, sa.select(sa.func.count()).select_from(Artifact)) == 6


@pytest.fixture
def gathered(make_app, tables_url, sample, private):
    """An app whose collection ``default`` gathers ``work`` and ``home``; only the first is read."""
    app = make_app(tables_url, {"work": sample.root})
    manager = CollectionManager({"work": sample.root})
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        migrate_artifacts_to_default_collection(session, manager.artifacts("work"), manager)
        session.commit()
    return make_app(tables_url, {"work": sample.root, "home": private}, create=False)


def test_a_first_populate_that_is_killed_shows_nowhere(gathered, populate):
    def kill(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        populate(gathered, "home", progress=kill)
    assert scalar(gathered, sa.select(sa.func.count()).select_from(Artifact)) == 8

    client = gathered.test_client()
    api = "/api/v1/user-collections"
    page = client.get(f"{api}/default/artifacts").json
    assert (len(page["items"]), page["page_info"]["total_count"]) == (6, 6)
    types = client.get(f"{api}/default/facets").json["facets"]["type"]
    assert sum(one["count"] for one in types) == 6
    assert client.get(f"{api}/home/artifacts").status_code == 503

    populate(gathered, "home")
    assert client.get(f"{api}/default/artifacts").json["page_info"]["total_count"] == 8
    types = client.get(f"{api}/default/facets").json["facets"]["type"]
    assert sum(one["count"] for one in types) == 8


def test_collections_that_are_gathered_can_be_refreshed_at_once(
    gathered, populate, sample, private
):
    populate(gathered, "home")
    for number in range(40):
        sample.skill(f"more-{number}")
        (private / "skills" / f"mine-{number}").mkdir()
        (private / "skills" / f"mine-{number}" / "SKILL.md").write_text(
            f"---\nname: mine-{number}\ndescription: Mine.\n---\n"
        )

    results = in_parallel(lambda: populate(gathered, "work"), lambda: populate(gathered, "home"))

    assert [getattr(one, "created", one) for one in results] == [40, 40]
    in_default = sa.select(sa.func.count()).where(CollectionArtifact.collection_id == "default")
    assert scalar(gathered, in_default) == 88


def test_a_populate_in_memory_leaves_the_hosts_transaction_to_the_host(make_app, sample, populate):
    app = make_app("sqlite://", {"work": sample.root})
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        session.execute(sa.text("CREATE TABLE host (name TEXT)"))
        session.commit()
        session.execute(sa.text("INSERT INTO host VALUES ('pending')"))
        app.extensions["artifact_cache"].service.populate("work")
        session.rollback()
        assert session.scalar(sa.text("SELECT COUNT(*) FROM host")) == 0

    assert populate(app).created == 6  # nothing of the host is pending now
    assert app.test_client().get(LIST).json["page_info"]["total_count"] == 6


LIST = "/api/v1/user-collections/work/artifacts"


def test_an_unreadable_root_gives_the_lease_back_to_a_caller_who_goes_on(
    make_app, sqlite_url, tmp_path, sample
):
    app = make_app(sqlite_url)
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        with pytest.raises(RootUnavailableError):
            populate_artifact_metadata(session, ArtifactManager(tmp_path / "gone"), "work")
        session.commit()
        assert populate_artifact_metadata(session, ArtifactManager(sample.root), "work").created
        with pytest.raises(ConfigurationError, match="is no id"):
            populate_artifact_metadata(session, ArtifactManager(sample.root), "A b")


class AsNobody(ArtifactManager):
    """Looks at the files as an account whom permissions stop."""

    def walk(self):
        with as_nobody():
            return super().walk()


@contextmanager
def as_nobody():
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_an_unreadable_folder_says_nothing_about_the_others(make_app, sqlite_url, clock):
    with tempfile.TemporaryDirectory() as above:  # tmp_path is closed to others
        Path(above).chmod(0o755)
        root = Path(above) / "collection"
        for name in ("shut", "open", "edited"):
            (root / "skills" / name).mkdir(parents=True)
            (root / "skills" / name / "SKILL.md").write_text(
                f"---\nname: {name}\ndescription: x\n---\n"
            )
        app = make_app(sqlite_url, {"work": root}, clock=clock)

        def run():
            with app.app_context():
                session = app.extensions["sqlalchemy"].session
                report = populate_artifact_metadata(session, AsNobody(root), "work")
                session.execute(sa.update(Collection).values(lease_until_ms=0))
                session.commit()
                return report

        assert run().created == 3
        with app.app_context():
            session = app.extensions["sqlalchemy"].session
            session.execute(sa.update(Artifact).values(condition="missing"))
            session.commit()
        (root / "skills" / "shut").chmod(0)
        (root / "skills" / "edited" / "SKILL.md").unlink()
        report = run()
        conditions = {row.name: row.condition for (row,) in rows(app, sa.select(Artifact))}
        (root / "skills" / "shut").chmod(0o755)
        mended = run()

    assert (report.removed, report.outcome) == (0, "partial")
    assert conditions == {"shut": "missing", "open": "ok", "edited": "missing"}
    assert (mended.removed, mended.outcome) == (1, "succeeded")


def test_a_folder_that_comes_back_as_it_was_is_available_again(
    make_app, tables_url, sample, tmp_path
):
    app = make_app(tables_url, {"work": sample.root})
    with app.app_context():
        service = app.extensions["artifact_cache"].service
        service.refresh()
        sample.root.rename(tmp_path / "unmounted")
        with pytest.raises(RootUnavailableError):
            service.refresh()
        assert [one["path_available"] for one in service.status()] == [False]

        (tmp_path / "unmounted").rename(sample.root)
        [report] = service.refresh().reports

        assert (report.unchanged, report.outcome) == (6, "succeeded")
        assert [one["path_available"] for one in service.status()] == [True]


def test_a_confirmation_is_good_for_once(make_app, sqlite_url, collection, populate):
    for number in range(40):
        collection.skill(f"skill-{number}")
    app = make_app(sqlite_url, {"work": collection.root})
    populate(app)
    for number in range(15):
        shutil.rmtree(collection.root / "skills" / f"skill-{number}")
    braked = populate(app)
    assert populate(app, confirm=braked.refresh_id).removed == 15

    for number in range(15, 30):
        shutil.rmtree(collection.root / "skills" / f"skill-{number}")

    with pytest.raises(InvalidRequestError, match="no run waits"):
        populate(app, confirm=braked.refresh_id)
    assert populate(app).withheld == 15
