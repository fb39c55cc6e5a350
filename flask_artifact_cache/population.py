"""Populating in a transaction of the caller's: for migrations and scripts of a host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from .database import as_schema_error
from .errors import ConfigurationError
from .files.manager import COLLECTION_ID, ArtifactManager, CollectionManager
from .refresh import runs, store
from .refresh.report import Report
from .refresh.requests import Refresher
from .refresh.run import Order
from .refresh.selection import Selection
from .refresh.transactions import in_session
from .settings import DEFAULTS

DEFAULT = "default"


@as_schema_error()
def populate_artifact_metadata(
    session: Session,
    artifact_mgr: ArtifactManager,
    collection_id: str,
    *,
    mass_loss_percent: float = DEFAULTS["ARTIFACT_CACHE_MASS_LOSS_PERCENT"],
    confirm: str | None = None,
) -> Report:
    """Read every artifact of a collection and upsert its row, in the caller's transaction.

    Nothing is committed: what the session does with it is the caller's decision.

    :param confirm: the id of a run whose removals were held back, to let them happen.
    :raises ConfigurationError: if the id is none.
    :raises SchemaError: if our tables are missing.
    """
    if not COLLECTION_ID.fullmatch(collection_id):
        raise ConfigurationError(
            f"{collection_id!r} is no id of a collection, which is {COLLECTION_ID.pattern}"
        )
    order = Order(Selection(collection_id), "populate", True, confirm, mass_loss_percent)
    return _in_session(session, {collection_id: artifact_mgr}, order)[0]


@as_schema_error()
def migrate_artifacts_to_default_collection(
    session: Session, artifact_mgr: ArtifactManager, collection_mgr: CollectionManager
) -> list[Report]:
    """Make every artifact of every configured collection a member of ``default``.

    Each collection is populated, then the collection ``default`` gathers them all, now and
    after every later refresh. One transaction, the caller's; nothing is committed.

    :param artifact_mgr: a root that belongs to ``default`` itself, if no collection has it.
    :raises SchemaError: if our tables are missing.
    """
    managers = {one: collection_mgr.artifacts(one) for one in collection_mgr.ids()}
    if artifact_mgr.root not in {manager.root for manager in managers.values()}:
        managers.setdefault(DEFAULT, artifact_mgr)
    with in_session(session).write() as connection:
        # All of them before the first is written: the change feed is what is locked last.
        for one in (*managers, DEFAULT):
            store.ensure_collection(connection, one)
        runs.lock(connection, [*managers, DEFAULT])
    reports = [
        report
        for one, manager in managers.items()
        for report in _in_session(
            session, {one: manager}, Order(Selection(one), "migrate", force=True)
        )
    ]
    with in_session(session).write() as connection:
        store.set_gathering(connection, DEFAULT)
        store.gather(connection, DEFAULT, store.complete(connection))
        store.publish(connection, DEFAULT)
    return reports


def _in_session(
    session: Session, managers: Mapping[str, ArtifactManager], order: Order
) -> Sequence[Report]:
    refresher = Refresher(in_session(session), managers, wait_s=0, joins=False)
    return refresher.refresh(order).reports
