"""Full-text search with the same meaning on every database.

Text is folded to lower-case words without accents. A query matches where each of its words
begins some word of the name, the tags or the description. Results rank by where *all* words
occur: in the name, else in name and tags, else anywhere. The rank of a row depends on nothing but
that row, unlike bm25, so pages stay in step while other rows come and go.

SQLite uses an FTS5 index, PostgreSQL a GIN index; any other database scans the folded text.
"""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Sequence
from contextlib import closing
from typing import Any
from weakref import WeakSet

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    String,
    and_,
    bindparam,
    column,
    func,
    insert,
    literal_column,
    or_,
    select,
    table,
    text,
)

from .models import SearchText

FTS_TABLE = "artifact_cache_search_fts"
GIN_INDEX = "ix_artifact_cache_search_gin"

# (columns of the table, weights of the tsvector) in which all words of a query may be found,
# from the best rank to the last.
TIERS = ((("name",), "A"), (("name", "tags"), "AB"), (("name", "tags", "description"), "ABC"))

MAX_WORD_LENGTH = 200
# What a word in ASCII consists of, in lower case; blanks for everything else.
_ASCII_WORDS = "".join(chr(code).lower() if chr(code).isalnum() else " " for code in range(128))
MAX_TERMS = 16
MAX_TERM_LENGTH = 64


def fold(value: str) -> str:
    """The words of a text: case-folded, without accents, separated by single blanks.

    Words are cut to :data:`MAX_WORD_LENGTH`; PostgreSQL refuses those above 2 KB.
    """
    if value.isascii():
        words = value.translate(_ASCII_WORDS).split()
    else:
        # Once before folding, because letters such as a bold A have a case only then.
        plain = unicodedata.normalize("NFKD", value).casefold()
        decomposed = unicodedata.normalize("NFKD", plain)
        letters = [
            character if character.isalnum() else " "
            for character in decomposed
            if not unicodedata.combining(character)
        ]
        words = "".join(letters).split()
    folded = " ".join(words)
    if len(folded) <= MAX_WORD_LENGTH:
        return folded
    return " ".join([word[:MAX_WORD_LENGTH] for word in words])


def terms(query: str) -> tuple[str, ...]:
    """The distinct words of a query, at most :data:`MAX_TERMS` of them, each cut to its limit."""
    words = dict.fromkeys(word[:MAX_TERM_LENGTH] for word in fold(query).split())
    return tuple(words)[:MAX_TERMS]


_INDEXED: WeakSet[Engine] = WeakSet()


def indexed_by(connection: Connection) -> str:
    """How this database searches: ``fts5``, ``gin`` or ``scan``."""
    if connection.dialect.name == "sqlite":
        if connection.engine in _INDEXED:
            return "fts5"
        # A host may have created the tables with a SQLite that lacks FTS5.
        found = connection.execute(
            text("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name"),
            {"name": FTS_TABLE},
        ).first()
        if found:
            _INDEXED.add(connection.engine)
        return "fts5" if found else "scan"
    return "gin" if connection.dialect.name == "postgresql" else "scan"


def matching(words: int, tier: int, how: str) -> Select[Any]:
    """The ids of the artifacts whose text holds every word within the columns of a tier.

    The words themselves are parameters; see :func:`parameters`.
    """
    columns, _ = TIERS[tier]
    if how == "fts5":
        fts = table(FTS_TABLE, column("rowid"))
        return select(fts.c.rowid).where(
            literal_column(FTS_TABLE).op("MATCH")(bindparam(f"match_{tier}", type_=String))
        )
    search = SearchText.__table__
    if how == "gin":
        query = func.to_tsquery(
            literal_column("'simple'"), bindparam(f"match_{tier}", type_=String)
        )
        return select(search.c.artifact_id).where(literal_column(_TSVECTOR).op("@@")(query))
    begins_a_word = (
        or_(
            *(
                search.c[name].like(bindparam(f"{place}_{number}", type_=String))
                for name in columns
                for place in ("first", "later")
            )
        )
        for number in range(words)
    )
    return select(search.c.artifact_id).where(and_(*begins_a_word))


def parameters(words: tuple[str, ...], how: str) -> dict[str, str]:
    """The values of the parameters of :func:`matching`, for every tier."""
    if how == "fts5":
        query = " AND ".join(f'"{word}"*' for word in words)
        return {
            f"match_{tier}": f"{{{' '.join(columns)}}} : ({query})"
            for tier, (columns, _) in enumerate(TIERS)
        }
    if how == "gin":
        return {
            f"match_{tier}": " & ".join(f"'{word}':*{weights}" for word in words)
            for tier, (_, weights) in enumerate(TIERS)
        }
    # Folded words hold neither '%' nor '_', so nothing needs an escape.
    return {
        f"{place}_{number}": f"{blank}{word}%"
        for number, word in enumerate(words)
        for place, blank in (("first", ""), ("later", "% "))
    }


_TSVECTOR = (
    "(setweight(to_tsvector('simple', name), 'A')"
    " || setweight(to_tsvector('simple', tags), 'B')"
    " || setweight(to_tsvector('simple', description), 'C'))"
)

# FTS5 over external content, kept true by triggers: the recipe of SQLite's documentation
# (fts5.html, section 4.4.3), but for insertions: a trigger takes four times as long for them as
# one statement for all, which is :func:`added`. The words are folded already, hence the
# plainest tokenizer.
_CREATE_FTS = (
    f"CREATE VIRTUAL TABLE {FTS_TABLE} USING fts5(name, tags, description,"
    " content='artifact_cache_search', content_rowid='artifact_id', tokenize='ascii',"
    # Which column holds a word, but not where: nobody asks for phrases.
    " detail='column', columnsize=0)",
    "CREATE TRIGGER artifact_cache_search_delete AFTER DELETE ON artifact_cache_search BEGIN"
    f" INSERT INTO {FTS_TABLE}({FTS_TABLE}, rowid, name, tags, description)"
    " VALUES ('delete', old.artifact_id, old.name, old.tags, old.description); END",
    "CREATE TRIGGER artifact_cache_search_update AFTER UPDATE ON artifact_cache_search BEGIN"
    f" INSERT INTO {FTS_TABLE}({FTS_TABLE}, rowid, name, tags, description)"
    " VALUES ('delete', old.artifact_id, old.name, old.tags, old.description);"
    f" INSERT INTO {FTS_TABLE}(rowid, name, tags, description)"
    " VALUES (new.artifact_id, new.name, new.tags, new.description); END",
)
_CREATE_GIN = f"CREATE INDEX {GIN_INDEX} ON artifact_cache_search USING gin ({_TSVECTOR})"


def added(connection: Connection, ids: Sequence[int]) -> None:
    """Index rows that were inserted into the search table, where no trigger or server does."""
    if indexed_by(connection) != "fts5":
        return
    source = SearchText.__table__
    columns = [source.c[name] for name in ("artifact_id", "name", "tags", "description")]
    target = table(FTS_TABLE, column("rowid"), *(column(one.name) for one in columns[1:]))
    connection.execute(
        insert(target).from_select(
            ["rowid", *(one.name for one in columns[1:])],
            select(*columns).where(source.c.artifact_id.in_(ids)).order_by(source.c.artifact_id),
        )
    )


def index_statements(dialect: str) -> tuple[str, ...]:
    """What indexes the search table in a database's own way, once the table is there."""
    if dialect == "sqlite" and _has_fts5():
        return _CREATE_FTS
    return (_CREATE_GIN,) if dialect == "postgresql" else ()


def drop_statements(dialect: str) -> tuple[str, ...]:
    """What drops the rest, before the table is dropped: triggers and a GIN index go with it."""
    return (f"DROP TABLE IF EXISTS {FTS_TABLE}",) if dialect == "sqlite" else ()


def _has_fts5() -> bool:
    with closing(sqlite3.connect(":memory:")) as connection:
        options = {row[0] for row in connection.execute("PRAGMA compile_options")}
    return "ENABLE_FTS5" in options
