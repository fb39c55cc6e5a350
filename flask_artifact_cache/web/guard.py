"""Who may call: tokens, the host's ``authorize``, limits, and no foreign page."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from flask import request

from ..errors import ArtifactCacheError, ForbiddenError, UnauthorizedError
from ..settings import Settings
from .rates import Rates, address

log = logging.getLogger("flask_artifact_cache")

Authorize = Callable[[str, "str | None"], bool]


class Guard:
    """Lets requests through, or raises what they are answered.

    Reading is open unless the host's callback says otherwise. Changing is closed unless a token
    matches or the callback returns True.

    :ivar authorize: the host's callback, asked with a permission and a collection's id or None.
    :ivar rates: what limits requests.
    """

    def __init__(self, settings: Settings, rates: Rates, authorize: Authorize | None) -> None:
        self.authorize = authorize
        self.max_body_bytes = settings.max_body_bytes
        self.rates = rates
        self._digests = [_digest(token) for token in settings.tokens]
        if authorize is None and not settings.tokens:
            log.info(
                "there is neither a token nor an 'authorize', so nothing can be changed by HTTP"
            )

    def ask(self, permission: str, collection_id: str | None, *, token_opens: bool = False) -> None:
        """Let a reading request through.

        :param token_opens: whether a token is enough.
        :raises ForbiddenError: if the host's callback says no.
        :raises UnauthorizedError: if it does, and the token that would be enough is a wrong one.
        """
        if self.authorize is None:
            return
        token = _bearer_token() if token_opens else None
        if token is not None and self._is_known(token):
            return
        if not self.authorize(permission, collection_id):
            if token is not None:
                raise _invalid()
            raise ForbiddenError(f"you may not {permission} this")

    def admit(
        self, permission: str, limit: str, load: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """The body of a changing request, if its sender may have it done.

        A body is read only of those who may be let through, and checked before the callback is
        asked, since it names the collection. Who is refused is counted apart from who is not, or a
        guest could use up what an administrator at the same address may do.

        :param load: reads and checks the body.
        :raises UnauthorizedError: without a token, or with a wrong one.
        :raises ForbiddenError: if the host's callback says no, or another site's page asks.
        :raises RateLimitedError: if the token, or else the client, has asked too often.
        """
        token = _bearer_token()
        if token is not None and self._spends(token, limit):
            return load()
        if self.authorize is None:
            raise self._refusal(permission, limit, token)
        if token is None:
            _refuse_other_sites()
        body = load()
        if self.authorize(permission, body.get("collection_id")) is not True:
            raise self._refusal(permission, limit, token)
        self.rates.spend(limit, "client")
        return body

    def admit_form(self, permission: str, limit: str, collection_id: str, token: str) -> None:
        """Let a form of our page through, which is sent with cookies or holds a token.

        :param token: what was typed into the form; empty: nothing. A page of another site
            cannot know one, so it stands in for where the form comes from.
        :raises UnauthorizedError, ForbiddenError, RateLimitedError: as :meth:`admit`.
        """
        if token and self._spends(token, limit):
            return
        if self.authorize is None:
            raise self._refusal(permission, limit, token or None)
        _refuse_other_sites(form=True)
        if self.authorize(permission, collection_id) is not True:
            raise self._refusal(permission, limit, token or None)
        self.rates.spend(limit, "client")

    def allows(self, permission: str, collection_id: str) -> bool:
        """Whether the host's callback lets whoever asks change something, without a token."""
        return self.authorize is not None and self.authorize(permission, collection_id) is True

    @property
    def takes_tokens(self) -> bool:
        """Whether there is a token that lets something be changed."""
        return bool(self._digests)

    def is_neighbour(self) -> bool:
        """Whether a request comes from this machine and with a token.

        Such a one may be told where the collections lie: it is the daemon's, or somebody's who
        can see the configuration anyhow.
        """
        token = _bearer_token()
        return token is not None and _is_local() and self._is_known(token)

    def _is_known(self, token: str) -> bool:
        digest = _digest(token)
        # Every one is compared, so the time tells neither which matched nor how much of it.
        return bool(sum(hmac.compare_digest(digest, known) for known in self._digests))

    def _spends(self, token: str, limit: str) -> bool:
        """Whether a token is valid; then the request is counted."""
        if not self._is_known(token):
            # Counted by themselves, and asked for only now: neither a flood of wrong tokens nor
            # one of requests without any keeps out those who have a right one.
            self.rates.check(limit, "wrong token", address())
            return False
        self.rates.spend(limit, "token", _digest(token).hex()[:16])
        return True

    def _refusal(self, permission: str, limit: str, token: str | None) -> ArtifactCacheError:
        if token is not None:
            self.rates.spend(limit, "wrong token", address())
            return _invalid()
        self.rates.spend(limit, "refused")
        if self.authorize is not None:
            return ForbiddenError(f"you may not {permission} this")
        if not self._digests:
            return ForbiddenError("changing is switched off: no token is configured")
        return UnauthorizedError("Send 'Authorization: Bearer' and a token.")


def _invalid() -> UnauthorizedError:
    return UnauthorizedError("The token is not valid.", "invalid_token")


def _bearer_token() -> str | None:
    """The token that was sent; empty if there is the word ``Bearer`` alone."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _is_local() -> bool:
    # Of a request that a proxy has passed on the address is the proxy's.
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    # A request by a Unix socket has none.
    sender = request.remote_addr
    try:
        return not sender or ip_address(sender).is_loopback
    except ValueError:
        return False


def _refuse_other_sites(*, form: bool = False) -> None:
    """Refuse what a page of another origin has the browser send, with the user's cookies.

    A browser says where a request comes from in ``Sec-Fetch-Site``, an old one or one without
    TLS in ``Origin``. What says neither is no browser, or cannot have sent JSON across origins.
    A request with a token needs none of this: no page can make a browser add one.

    :param form: whether a form of any page could have sent it. Then something has to be said; a
        text browser, which knows neither header, says it in ``Referer``.
    :raises ForbiddenError: if it was another origin, sub-domains included.
    """
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    elif form:
        foreign = not _is_own(origin or request.headers.get("Referer", ""))
    else:
        foreign = origin is not None and not _is_own(origin)
    if foreign:
        raise ForbiddenError("a page of another site may not ask for this")


def _is_own(origin: str) -> bool:
    """Whether an origin is this host, whose scheme a proxy may have changed."""
    try:
        there, here = urlsplit(origin), urlsplit(f"//{request.host}")
        default = {"http": 80, "https": 443}[there.scheme]
        ports = there.port or default, here.port or default
    except (ValueError, KeyError):
        return False
    return ports[0] == ports[1] and there.hostname is not None and there.hostname == here.hostname
