"""Many rows at once, handed to the driver as it takes them.

SQLAlchemy looks at each value of each row, which would be a third of a populate. Here the
conversions of a table's columns are found once for all rows, and equal times are converted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import JSON, Boolean, Connection, Table, insert

from ..models import UtcDateTime


def columns(table: Table) -> list[str]:
    """What a row of :func:`insert_rows` holds: all columns but a key that counts up by itself."""
    return [one.name for one in table.columns if one is not table.autoincrement_column]


def insert_rows(connection: Connection, table: Table, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert rows of values in the order of :func:`columns`."""
    names = columns(table)
    converts = _converts(connection, table, names)
    converted = [_converted(row, converts) for row in rows] if converts else list(rows)
    if not converted:
        return
    dialect = connection.dialect
    statement = str(insert(table).compile(dialect=dialect, column_keys=names))
    if dialect.positional:
        connection.exec_driver_sql(statement, converted)
    else:
        named = [dict(zip(names, row, strict=True)) for row in converted]
        connection.exec_driver_sql(statement, named)


Convert = Callable[[Any], Any]


def _converts(
    connection: Connection, table: Table, names: Sequence[str]
) -> list[tuple[int, Convert]]:
    """The places of a row whose values this driver does not take as they are, and what to do."""
    found: list[tuple[int, Convert]] = []
    for place, name in enumerate(names):
        type_ = table.c[name].type
        convert: Convert | None = type_.dialect_impl(connection.dialect).bind_processor(
            connection.dialect
        )
        if convert is not None:
            if isinstance(type_, (UtcDateTime, Boolean)):
                convert = lru_cache(maxsize=16)(convert)
            elif isinstance(type_, JSON):
                convert = _with_empty(convert)
            found.append((place, convert))
    return found


def _with_empty(convert: Convert) -> Convert:
    """Convert the empty list once: most artifacts have no warnings, and many no tags."""
    empty = convert([])
    return lambda value: convert(value) if value != [] else empty


def _converted(row: tuple[Any, ...], converts: list[tuple[int, Convert]]) -> tuple[Any, ...]:
    values = list(row)
    for place, convert in converts:
        values[place] = convert(values[place])
    return tuple(values)
