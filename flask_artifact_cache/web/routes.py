"""What a route is: all that the router, the guard and the OpenAPI document know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flask.typing import ResponseReturnValue
from marshmallow import Schema


def _in_path(values: Mapping[str, str]) -> str | None:
    return values.get("collection_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One address below the prefix, and one method.

    :ivar view: called with the variables of the rule, or with the checked body.
    :ivar answer: the schema of what it answers; None: an object that is described elsewhere.
    :ivar permission: what the host's ``authorize`` is asked for; None: open to everybody.
    :ivar collection: tells from the variables of the rule which collection is asked about.
    :ivar query: the name of the query's schema.
    :ivar body: the schema of the body; only a changing route has one.
    :ivar limit: the name of the rate limit; only a changing route has one.
    :ivar deferrable: whether ``Prefer: respond-async`` is heeded.
    """

    rule: str
    view: Callable[..., ResponseReturnValue]
    answer: type[Schema] | None
    permission: str | None = "read"
    collection: Callable[[Mapping[str, str]], str | None] = _in_path
    query: str = "none"
    body: type[Schema] | None = None
    limit: str = ""
    deferrable: bool = False

    @property
    def method(self) -> str:
        """What changes something is a POST, and nothing else is."""
        return "GET" if self.body is None else "POST"
