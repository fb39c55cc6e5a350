"""Which addresses may be connected to, and connections that connect to no other."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UpstreamError
from .sources import is_loopback

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from urllib3 import PoolManager

# Where a GitHub may be: anywhere in public, in the operator's own network too, or on this machine.
Scope = Literal["public", "own", "loopback"]
# A host and a port -> its addresses, the best first.
Resolve = Callable[[str, int], Sequence[str]]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def resolve(host: str, port: int) -> list[str]:
    """Ask the system.

    :raises OSError: if it knows no such host.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def scope_of(host: str) -> Scope:
    """Tell where the configured host may be.

    GitHub's own hosts are public. An Enterprise server may stand in a private network: whoever
    configures it says so.
    """
    if is_loopback(host):
        return "loopback"
    own = ("github.com", "ghe.com", "githubusercontent.com")
    is_public = any(host == one or host.endswith(f".{one}") for one in own)
    return "public" if is_public else "own"


def is_allowed(address: str, scope: Scope) -> bool:
    """Tell whether an address may be connected to.

    An IPv4 address within an IPv6 one counts as itself.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False  # one that belongs to an interface, too
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is None and ip.is_site_local:
            return scope == "own"
        ip = inner or ip
    if scope == "loopback":
        return ip.is_loopback
    # Here the metadata of cloud machines are, whatever the operator's network is.
    if ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast or ip.is_reserved:
        return False
    return ip.is_global or scope == "own"


def pool_manager(
    scope: Scope, resolve: Resolve, answers: type[HTTPResponse], **options: Any
) -> PoolManager:
    """Make a pool whose connections resolve a host once, and connect to what was checked.

    A name that means another address a moment later leads nowhere else therefore. Names of
    certificates are checked as ever. What is not allowed raises an ``UpstreamError``.

    :param answers: the class by which answers are read.
    """
    import urllib3
    from urllib3 import exceptions
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.util.connection import create_connection

    def connect(self: HTTPConnection) -> socket.socket:
        try:
            addresses = resolve(self.host.strip("[]"), self.port)
        except (OSError, UnicodeError) as error:
            raise exceptions.NewConnectionError(self, f"no address: {error}") from error
        if not addresses or not all(is_allowed(one, scope) for one in addresses):
            raise UpstreamError("GitHub's host has an address that it may not have", "refused")
        *others, last = addresses
        for one in others:
            try:
                return attempt(self, one)
            except exceptions.HTTPError:
                continue
        return attempt(self, last)

    def attempt(self: HTTPConnection, address: str) -> socket.socket:
        try:
            return create_connection(
                (address, self.port),
                self.timeout,
                source_address=self.source_address,
                socket_options=self.socket_options,
            )
        except TimeoutError as error:
            raise exceptions.ConnectTimeoutError(self, "timed out") from error
        except OSError as error:
            raise exceptions.NewConnectionError(self, str(error)) from error

    class Plain(HTTPConnection):
        _new_conn = connect
        response_class = answers

    class Secure(HTTPSConnection):
        _new_conn = connect
        response_class = answers

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    manager = urllib3.PoolManager(**options)
    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return manager
