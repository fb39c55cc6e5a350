"""What Prometheus is told: counters of the work that was done, and the state as SQL tells it.

Counters belong to the process that did the work; in prometheus_client's multiprocess mode they
are summed up over all of them. The state is asked for at every scrape, so every worker tells the
same, in either mode. No label takes a value from outside of the sets below and the collections'
ids, so more artifacts are not more series.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from flask import Flask, current_app, has_app_context
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from .errors import ArtifactCacheError, ConfigurationError, RootUnavailableError
from .files.problems import HINTS
from .freshness import STATES
from .refresh.report import FAILED, NEEDS_CONFIRMATION, PARTIAL, SUCCEEDED, Report
from .refresh.run import Order
from .refresh.selection import Selection
from .stats import Lookups, Stats

log = logging.getLogger("flask_artifact_cache")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "artifact_cache"
# What any other value of a label is counted as.
OTHER = "other"

OUTCOMES = (SUCCEEDED, PARTIAL, NEEDS_CONFIRMATION, FAILED)
TRIGGERS = (
    *("api", "cli", "daemon", "page", "populate", "refresh", "sync"),
    *("cold", "event", "miss", "schedule", "stale", "startup"),
)
# Of problems; an error keeps an artifact or a manifest from being read.
SEVERITIES = ("error", "warning")
SCOPES = ("collection", "artifacts", "paths")
GUARDS = ("mass_loss", "root_unavailable")
UPSTREAM_OUTCOMES = ("ok", "not_modified", "not_found", "rate_limited", "refused", "failed")
BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


def _codes(kind: type[ArtifactCacheError]) -> set[str]:
    return {kind.code}.union(*map(_codes, kind.__subclasses__()))


CODES = frozenset(HINTS) | _codes(ArtifactCacheError)


class Counters:
    """What one application has done; registered with nothing but a registry of its own.

    :ivar collectors: of the parts, for another registry.
    :ivar hit: call it when something was answered from the cache. Takes half a
        microsecond, in multiprocess mode 1.3.
    :ivar miss: call it when nothing was found, or the collection was not read yet.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", help_, labels, registry=self.registry)

        self._hits = counter("hits", "Requests answered from the cache.")
        self._misses = counter(
            "misses", "Requests for an artifact or a collection that is not in the cache."
        )
        self._refreshes = counter("refreshes", "Refreshes of a collection.", "trigger", "outcome")
        self._errors = counter("sync_errors", "Errors that refreshes have reported.", "code")
        self._upstream = counter(
            "upstream_requests", "Requests to where artifacts come from.", "outcome"
        )
        self._trips = counter(
            "guard_trips", "Refreshes that a guard kept from removing rows.", "guard"
        )
        self._durations = Histogram(
            f"{PREFIX}_refresh_duration_seconds",
            "How long refreshes of a collection took.",
            ["scope"],
            registry=self.registry,
            buckets=BUCKETS_S,
        )
        self.collectors: tuple[Collector, ...] = (
            *(self._hits, self._misses, self._refreshes, self._errors),
            *(self._upstream, self._trips, self._durations),
        )
        self.hit: Callable[[], None] = self._hits.inc
        self.miss: Callable[[], None] = self._misses.inc
        # A series that begins with its first event hides this event from rate() and increase().
        for trigger in TRIGGERS:
            for outcome in OUTCOMES:
                self._refreshes.labels(trigger, outcome)
        for guard in GUARDS:
            self._trips.labels(guard)
        for outcome in UPSTREAM_OUTCOMES:
            self._upstream.labels(outcome)
        for scope in SCOPES:
            self._durations.labels(scope)

    def refreshed(self, order: Order, report: Report) -> None:
        """Count a refresh of a collection that has ended, in whatever way."""
        trigger = _known(order.trigger, TRIGGERS)
        self._refreshes.labels(trigger, _known(report.outcome, OUTCOMES)).inc()
        self._durations.labels(_scope(order.selection)).observe(report.duration_seconds)
        for error in report.errors:
            code = _known(error["code"], CODES)
            self._errors.labels(code).inc()
            if code == RootUnavailableError.code:
                self._trips.labels(code).inc()
        if report.withheld:
            self._trips.labels("mass_loss").inc()

    def asked_upstream(self, outcome: str) -> None:
        """Count a request to where artifacts come from; one of :data:`UPSTREAM_OUTCOMES`."""
        self._upstream.labels(_known(outcome, UPSTREAM_OUTCOMES)).inc()

    def lookups(self) -> Lookups:
        """How often something was asked of the cache."""
        folder = _folder()
        if folder is None:
            found: Iterable[Metric] = [*self._hits.collect(), *self._misses.collect()]
        else:
            found = _merged(folder, "counter_*.db")
        values = {sample.name: sample.value for one in found for sample in one.samples}

        def value(name: str) -> int:
            return int(values.get(f"{PREFIX}_{name}_total", 0))

        return Lookups(value("hits"), value("misses"), folder is not None)

    def collect(self) -> list[Metric]:
        """Of this process, or in multiprocess mode of all; ours alone, whatever the host counts."""
        folder = _folder()
        if folder is None:
            return [_without_created(one) for one in self.registry.collect()]
        found = _merged(folder, "*.db")
        return [one for one in found if one.name.startswith(f"{PREFIX}_")]


class State(Collector):
    """The gauges, asked of the database at every scrape.

    A host may register it with a registry of its own, also beside a ``MultiProcessCollector``.

    :param stats: asked within an application context.
    """

    def __init__(self, app: Flask, stats: Callable[[], Stats]) -> None:
        self._app = weakref.ref(app)  # a registry may outlive the application
        self._stats = stats

    def describe(self) -> list[Metric]:
        """The names, without asking the database."""
        return list(_gauges(None))

    def collect(self) -> Iterator[Metric]:
        """The gauges; ``up`` alone, as 0, where the database does not answer."""
        app = self._app()
        if app is None:
            return
        inside = has_app_context() and current_app == app
        with nullcontext() if inside else app.app_context():
            try:
                stats = self._stats()
            except Exception as error:  # noqa: BLE001 - a scrape has to tell of it, not to fail
                log.error("the state of the cache cannot be told: %s", type(error).__name__)
                yield _up(0)
                return
        yield _up(1)
        yield from _gauges(stats)


def exposition(counters: Counters, state: State) -> bytes:
    """Everything of ours, as a scrape takes it; of type :data:`CONTENT_TYPE`."""
    families = sorted([*counters.collect(), *state.collect()], key=lambda one: one.name)
    return generate_latest(_Families(families))


def register(registry: CollectorRegistry, counters: Counters, state: State) -> None:
    """Let a host's registry tell what ours tells.

    In multiprocess mode the state alone: the counters are told by a ``MultiProcessCollector``.

    :raises ConfigurationError: if another application's cache is in it already.
    """
    for one in (*(counters.collectors if _folder() is None else ()), state):
        try:
            registry.register(one)
        except ValueError:
            raise ConfigurationError(
                "the 'registry' given to ArtifactCache holds the metrics of another artifact cache;"
                " give each app a CollectorRegistry of its own"
            ) from None


class _Families(Collector):
    """Metrics that were collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _up(value: int) -> GaugeMetricFamily:
    text = "Whether the database tells the state of the cache."
    return GaugeMetricFamily(f"{PREFIX}_up", text, value)


def _gauges(stats: Stats | None) -> Iterator[GaugeMetricFamily]:
    def gauge(
        name: str, help_: str, *labels: str, values: Mapping[Any, float | None]
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"{PREFIX}_{name}", help_, labels=labels)
        for key, value in values.items():
            if value is not None:
                family.add_metric(key, value)
        return family

    collections = stats.collections if stats else ()
    yield gauge(
        "stale_artifacts",
        "Artifacts that are stale.",
        values={(): stats.states["stale"]} if stats else {},
    )
    yield gauge(
        "artifacts",
        "Artifacts by the collection that owns them.",
        "collection",
        "state",
        values={
            (one.id, state): one.owned.get(state, 0) for one in collections for state in STATES
        },
    )
    yield gauge(
        "problems",
        "What is wrong with files, by the collection that owns them.",
        "collection",
        "severity",
        values={
            (one.id, severity): one.owned_problems[severity]
            for one in collections
            for severity in SEVERITIES
        },
    )
    yield gauge(
        "oldest_sync_age_seconds",
        "How long ago the artifact was verified that waits longest for it.",
        values={(): stats.oldest_age_s} if stats else {},
    )
    yield gauge(
        "last_refresh_timestamp_seconds",
        "When all of a collection was last compared with its files.",
        "collection",
        values={
            (one.id,): one.verified_at.timestamp() if one.verified_at else None
            for one in collections
        },
    )


def _known(value: str, values: Iterable[str]) -> str:
    return value if value in values else OTHER


def _scope(selection: Selection) -> str:
    if selection.paths:
        return "paths"
    return "artifacts" if selection.artifact_ids else "collection"


def _folder() -> Path | None:
    """Where processes share their counters; None: they do not."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(folder) if folder else None


def _merged(folder: Path, pattern: str) -> Iterable[Metric]:
    files = [str(one) for one in folder.glob(pattern)]
    found: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
    return found


def _without_created(family: Metric) -> Metric:
    """Without when each counter began, which multiprocess mode does not tell either."""
    kept = Metric(family.name, family.documentation, family.type)
    kept.samples = [one for one in family.samples if not one.name.endswith("_created")]
    return kept
