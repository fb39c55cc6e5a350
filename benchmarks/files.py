"""Reading files: what a populate costs beside the least that it could cost."""

from __future__ import annotations

import statistics

from . import job
from .measure import Ratio, Row, duration
from .workspace import Workspace


def populate(workspace: Workspace) -> list[Row]:
    """Into an empty cache, and once more when nothing has changed."""
    size = workspace.scale.middle
    root = workspace.collection(size)
    floors, firsts, agains = [], [], []
    for number in range(workspace.scale.populate_rounds):
        workspace.say(f"populating {size:,}, round {number + 1}")
        floors.append(workspace.floor(size))
        firsts.append(workspace.populate(size))
        agains.append(job.run("populate", root, workspace.database(size)))
    first, again = _ratio(floors, firsts), _ratio(floors, agains)
    return [
        Row(f"populate, empty cache, {size:,}", first.median, 2.5, detail=_each(first, size)),
        Row(f"populate, nothing changed, {size:,}", again.median, detail=_each(again, size)),
    ]


def growth(workspace: Workspace) -> list[Row]:
    """What an artifact costs among many, and how much memory they take."""
    small, large = workspace.scale.small, workspace.scale.large
    few, many, few_floors, many_floors = [], [], [], []
    for number in range(workspace.scale.growth_rounds):
        workspace.say(f"populating {large:,}, round {number + 1}")
        few_floors.append(workspace.floor(small))
        few.append(workspace.populate(small))
        many_floors.append(workspace.floor(large))
        many.append(workspace.populate(large))
        few_floors.append(workspace.floor(small))
        few.append(workspace.populate(small))
    few_ratio, many_ratio = _ratio(few_floors, few), _ratio(many_floors, many)
    few_s, many_s = (
        statistics.median(done.seconds / done.count for done in jobs) for jobs in (few, many)
    )
    floors_s = [
        statistics.median(done.seconds / done.count for done in jobs)
        for jobs in (few_floors, many_floors)
    ]
    return [
        Row(f"populate, empty cache, {small:,}", few_ratio.median, detail=_each(few_ratio, small)),
        Row(
            f"populate, empty cache, {large:,}", many_ratio.median, detail=_each(many_ratio, large)
        ),
        Row(
            f"cost of an artifact, {small:,} to {large:,}",
            many_s / few_s,
            1.5,
            detail=f"{duration(few_s)} to {duration(many_s)};"
            f" of the floor {floors_s[1] / floors_s[0]:.2f} ×",
        ),
        Row(
            f"peak memory of populate, {large:,}",
            max(done.peak_mb for done in many),
            200,
            "MB",
            f"{max(done.peak_mb for done in few):.0f} MB at {small:,}",
        ),
    ]


def _ratio(floors: list[job.Job], works: list[job.Job]) -> Ratio:
    return Ratio(
        tuple(done.seconds for done in floors),
        tuple(done.seconds for done in works),
    )


def _each(ratio: Ratio, size: int) -> str:
    work, floor = (statistics.median(times) / size for times in (ratio.work_s, ratio.floor_s))
    return f"an artifact {duration(work)}, floor {duration(floor)}"
