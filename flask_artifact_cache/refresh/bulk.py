"""Many rows at once, handed to the driver as it takes them.

SQLAlchemy looks at each value of each row, which would be a third of a populate. Here the
conversions of a table's columns are found once for all rows, and equal times are converted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import JSON, Boolean, Connection, LargeBinary, Table, insert

from ..models import UtcDateTime

# Rows per statement, and artifacts per transaction: a list of ids stays far below every database's
# limit of parameters. 1,000 cost 15 us an artifact more, and 4,000 take 20 MB more.
BATCH = 2500

T = TypeVar("T")


def batches(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """The items in lists of at most ``size``."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def columns(table: Table) -> list[str]:
    """All columns in their order, but a key that counts up by itself."""
    return [one.name for one in table.columns if one is not table.autoincrement_column]


def insert_rows(
    connection: Connection,
    table: Table,
    rows: Iterable[tuple[Any, ...]],
    names: Sequence[str] | None = None,
) -> None:
    """Insert rows of values.

    :param names: the columns that the values belong to, in the table's order; by default all.
    """
    names = names or columns(table)
    converts = _converts(connection, table, names)
    converted = [_converted(row, converts) for row in rows] if converts else list(rows)
    if not converted:
        return
    dialect = connection.dialect
    compiled = insert(table).compile(dialect=dialect, column_keys=names)
    statement = str(compiled)
    if dialect.positional:
        assert list(compiled.positiontup or ()) == list(names), "not in the table's order"
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
        if isinstance(type_, LargeBinary):
            continue  # every driver takes bytes
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
