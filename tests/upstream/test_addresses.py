"""No request leaves for an address that the configured GitHub cannot have."""

from __future__ import annotations

import socket

import pytest

from flask_artifact_cache.errors import ConfigurationError, UpstreamError
from flask_artifact_cache.upstream import addresses
from flask_artifact_cache.upstream.addresses import is_allowed, scope_of
from flask_artifact_cache.upstream.github import GitHub
from flask_artifact_cache.upstream.sources import api_root

from .fakegithub import Repository, redirect

PUBLIC = ["140.82.112.5", "8.8.8.8", "2606:50c0:8000::153", "::ffff:8.8.8.8", "64:ff9b::808:808"]
OWN = [
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "fec0::1"),
    *("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::"),
]
NEVER = [
    *("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fe80::1", "fe80::1%eth0"),
    *("0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1"),
    *("2130706433", "0177.0.0.1", "0x7f.1", "localhost", ""),
]
LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]


@pytest.mark.parametrize(
    ("scope", "allowed"), [("public", PUBLIC), ("own", PUBLIC + OWN), ("loopback", LOOPBACK)]
)
def test_an_address_is_allowed_where_the_configured_host_can_be(scope, allowed):
    found = [one for one in PUBLIC + OWN + NEVER + LOOPBACK if is_allowed(one, scope)]

    assert found == allowed


def test_where_a_host_can_be_follows_from_its_name():
    hosts = {
        "public": ["api.github.com", "codeload.github.com", "api.octocorp.ghe.com"],
        "own": ["ghe.example.com", "github.com.evil.example", "10.0.0.1", "notgithub.com"],
        "loopback": ["localhost", "127.0.0.1", "::1"],
    }

    for scope, names in hosts.items():
        assert {scope_of(one) for one in names} == {scope}


@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "0x7f.1", "127.1", "1.2.3.4.5", "0x"])
def test_an_address_that_is_not_written_as_one_is_no_host(host):
    with pytest.raises(ConfigurationError, match="must be like"):
        api_root(f"https://{host}/api/v3")


@pytest.fixture
def attempts(monkeypatch):
    """What is connected to; nothing answers."""
    found = []

    def connect(self, address):
        found.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    return found


@pytest.fixture
def ask(time_):
    """Asks a GitHub whose name means what a test says."""

    def ask(url, resolve):
        github = GitHub(
            url, "a-token", resolve=resolve, sleep=time_.sleep, clock=time_, luck=lambda: 0.5
        )
        try:
            with pytest.raises(UpstreamError) as caught:
                github.fetch("o/r/s", None)
        finally:
            github.close()
        return caught.value

    return ask


def test_a_name_that_means_something_else_a_moment_later_leads_nowhere(ask, attempts):
    asked = []

    def rebinding(host, port):
        asked.append((host, port))
        return ["8.8.8.8"] if len(asked) == 1 else ["127.0.0.1"]

    error = ask("https://api.github.com", rebinding)

    # What was checked is what is connected to, without another question between the two.
    assert attempts == ["8.8.8.8"]
    assert asked == [("api.github.com", 443)] * 2
    assert (error.reason, str(error)) == (
        "refused",
        "GitHub's host has an address that it may not have",
    )


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://api.github.com", ["10.0.0.1"]),
        ("https://api.github.com", ["8.8.8.8", "169.254.169.254"]),
        ("https://api.github.com", ["::ffff:100.64.0.1"]),
        ("https://api.octocorp.ghe.com", ["192.168.0.1"]),
        ("https://ghe.example.com/api/v3", ["169.254.169.254"]),
        ("https://ghe.example.com/api/v3", ["127.0.0.1"]),
        ("http://localhost:1", ["10.0.0.1"]),
        ("https://api.github.com", []),
    ],
)
def test_an_address_that_is_not_allowed_is_not_connected_to(ask, attempts, url, found):
    error = ask(url, lambda host, port: found)

    assert (error.reason, attempts) == ("refused", [])


def test_an_enterprise_server_may_be_in_the_own_network(ask, attempts):
    error = ask("https://ghe.example.com/api/v3", lambda host, port: ["10.0.0.1", "fd00::1"])

    assert str(error) == "GitHub cannot be reached, after 5 attempts"
    assert attempts == ["10.0.0.1", "fd00::1"] * 5


def test_a_name_that_is_not_known_is_trouble(ask, attempts):
    def unknown(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    assert str(ask("https://api.github.com", unknown)).startswith("GitHub cannot be reached")
    assert attempts == []


def test_each_hop_is_resolved_and_checked(github, fake, staging):
    fake.repos["o/r"] = Repository({f"s/{n}": b"%d" % n for n in range(30)} | {"s/SKILL.md": b"x"})
    asked = []

    def resolve(host, port):
        asked.append(port)
        # The archive host is said to be where the metadata of the machine are.
        return addresses.resolve(host, port) if len(asked) == 1 else ["169.254.169.254"]

    with pytest.raises(UpstreamError, match="an address that it may not have"):
        github(resolve=resolve).fetch("o/r/s", staging)

    assert asked == [int(one.rpartition(":")[2]) for one in (fake.host, fake.archive_host)]
    fake.fail(redirect("http://169.254.169.254/latest/meta-data"))
    with pytest.raises(UpstreamError, match="not one of its own"):
        github().fetch("o/r/s", staging)
