"""What happens to artifacts, as signals: for hosts to listen to, and to send.

``artifact_added``, ``artifact_updated``, ``artifact_removed`` and ``version_changed`` carry
``collection_id``, ``artifact_id`` (``type:name``) and ``path`` (of its metadata file, relative to
the collection's root). ``collection_updated`` carries ``collection_id`` and ``paths``, which is
empty where anything may have changed. ``refresh_finished`` carries ``report``, a
:class:`.refresh.report.Report` of one collection, which may have failed.

The file side announces what it has changed on disk, with a
:class:`~flask_artifact_cache.CollectionManager` as the sender; hosts may do so, too. A refresh
announces what it has found changed, with the service as the sender.
"""

from __future__ import annotations

import logging
from typing import Any

from blinker import NamedSignal, Namespace

log = logging.getLogger("flask_artifact_cache")

_signals = Namespace()

artifact_added = _signals.signal("artifact-cache-artifact-added")
artifact_updated = _signals.signal("artifact-cache-artifact-updated")
artifact_removed = _signals.signal("artifact-cache-artifact-removed")
version_changed = _signals.signal("artifact-cache-version-changed")
collection_updated = _signals.signal("artifact-cache-collection-updated")
refresh_finished = _signals.signal("artifact-cache-refresh-finished")


def is_heard(signal: NamedSignal, sender: object) -> bool:
    """Whether anybody but the cache itself listens to what a sender tells."""
    ours = f"{__package__}.events"
    return any(
        getattr(receiver, "__module__", None) != ours for receiver in signal.receivers_for(sender)
    )


def announce(signal: NamedSignal, sender: object, **data: Any) -> None:
    """Send a signal; a receiver that raises is logged, and the others still hear of it."""
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **data)
        except Exception:
            # Whatever it is, it must not break what has happened.
            log.exception("a receiver of %s failed", signal.name)
