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
    :ivar answer: the schema of what it answers; None: an object that is described elsewhere, or
        no JSON.
    :ivar media: the type of what it answers.
    :ivar tagged: whether a client that has the answer is told so.
    :ivar permission: what the host's ``authorize`` is asked for; None: open to everybody.
    :ivar token_opens: whether a token opens it where ``authorize`` does not: it tells of refreshes
        and numbers, which concern whoever may cause them, and of files only what went wrong.
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
    token_opens: bool = False
    collection: Callable[[Mapping[str, str]], str | None] = _in_path
    query: str = "none"
    body: type[Schema] | None = None
    limit: str = ""
    deferrable: bool = False
    media: str = "application/json"
    tagged: bool = True

    @property
    def method(self) -> str:
        """What changes something is a POST, and nothing else is."""
        return "GET" if self.body is None else "POST"
