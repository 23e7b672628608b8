"""The RQ dashboard is reached over a private network, and over no other."""

import socket
from collections import namedtuple

import psutil
import pytest

from jobs import dashboard
from ottoai.embedded.folder import any_port
from ottoai.errors import ConfigError
from tests.background import process
from tests.conftest import make_config
from tests.deploy.test_proxy import listens
from tests.helpers import until

OPERATOR = "op:canary-secret-of-ops:operator"
Interface = namedtuple("Interface", "address")  # noqa: PYI024 - as psutil's


async def test_it_listens_on_the_private_address_alone(database_url, redis_url):
    port = any_port()
    config = make_config(database_url, redis_url, HOST="127.0.0.2", DASHBOARD_PORT=str(port))
    with process("dashboard", config, HOST="127.0.0.2", DASHBOARD_PORT=str(port), OPS_USERS=OPERATOR):
        await until(lambda: listens(port, "127.0.0.2"), 30)
        assert not listens(port)


@pytest.mark.parametrize("host", ["8.8.8.8", "2001:4860:4860::8888"])
def test_it_does_not_start_on_a_public_address(database_url, redis_url, host):
    config = make_config(database_url, redis_url, HOST=host)
    with process("dashboard", config, HOST=host, OPS_USERS=OPERATOR) as refused:
        _, err = refused.communicate(timeout=30)
    assert refused.returncode == 2
    assert f"HOST is {host}: the RQ dashboard is for private addresses" in err


@pytest.mark.parametrize(
    ("host", "public", "refused"),
    [
        ("0.0.0.0", "8.8.8.8", True),
        ("::", "8.8.8.8", True),
        ("::", "2001:4860:4860::8888", True),
        ("0.0.0.0", "2001:4860:4860::8888", False),  # is not listened on
        ("127.0.0.1", "8.8.8.8", False),
    ],
)
def test_all_addresses_are_refused_where_one_of_them_is_public(monkeypatch, host, public, refused):
    own = {"lo": [Interface("127.0.0.1")], "eth0": [Interface("172.19.0.2"), Interface("fe80::1%eth0")]}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: own)
    assert dashboard.private(host) == host
    own["eth1"] = [Interface(public), Interface("02:fc:00:00:00:01")]
    if refused:
        with pytest.raises(ConfigError, match="is public"):
            dashboard.private(host)
    else:
        assert dashboard.private(host) == host


def test_a_name_is_looked_up_for_either_kind_of_address(monkeypatch):
    """Fly's private addresses are IPv6, behind a name in /etc/hosts: fly-local-6pn."""
    told = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fdaa:0:18:a7b::2", 0, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: told)
    assert dashboard.private("fly-local-6pn") == "fdaa:0:18:a7b::2"
