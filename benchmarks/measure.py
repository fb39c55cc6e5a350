"""Figures: what was measured, against what, and whether that is within the budget."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    :ivar figure: in ``unit``; the unit "x" is a ratio to the floor.
    :ivar budget: the most that the figure may be, or None where none was set.
    :ivar detail: absolute times, and whatever helps to judge the figure.
    """

    work: str
    figure: float
    budget: float | None = None
    unit: str = "x"
    detail: str = ""

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or nothing without a budget."""
        if self.budget is None:
            return ""
        return "met" if self.figure <= self.budget else "missed"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Something beside its floor, round by round; each number is the median of its round.

    :ivar floor_s: seconds.
    :ivar work_s: seconds.
    """

    floor_s: tuple[float, ...]
    work_s: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds' ratios: what disturbed a round disturbed both sides."""
        pairs = zip(self.work_s, self.floor_s, strict=True)
        return statistics.median(work / floor for work, floor in pairs)

    @property
    def detail(self) -> str:
        """The absolute times, which are only there to give the scale."""
        work, floor = statistics.median(self.work_s), statistics.median(self.floor_s)
        return f"{duration(work)}, floor {duration(floor)}"


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least ``percent`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def duration(seconds: float) -> str:
    """A time in a unit that fits it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| work | figure | budget | | detail |", "|---|--:|--:|---|---|"]
    for row in rows:
        budget = "" if row.budget is None else f"≤ {_number(row.budget, row.unit)}"
        figure = _number(row.figure, row.unit)
        lines.append(f"| {row.work} | {figure} | {budget} | {row.verdict} | {row.detail} |")
    return "\n".join(lines)


def _number(value: float, unit: str) -> str:
    if unit == "x":
        return f"{value:.2f} ×"
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
