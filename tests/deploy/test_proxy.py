"""What deploy/haproxy.cfg makes of a request on its way: TLS, and who came by which name."""

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ottoai.embedded.folder import any_port
from tests.deploy.behind import PLACES, haproxy, needs_haproxy
from tests.helpers import until

pytestmark = needs_haproxy


def certificate(folder: Path) -> Path:
    """A PEM file as HAProxy wants it, of certificate and key, for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = folder / "site.pem"
    file.write_bytes(made.public_bytes(kind[0]) + key.private_bytes(*kind))
    return file


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0


class Edge(NamedTuple):
    """The two addresses, and what to trust."""

    plain: str
    secure: str
    trust: ssl.SSLContext


async def told(request: web.Request) -> web.Response:
    """What a process behind the proxy gets to hear."""
    return web.json_response({name: request.headers.getall(name) for name in request.headers if name.startswith("X-")})


@pytest.fixture
async def edge(aiohttp_server: Callable[..., Awaitable[TestServer]], tmp_path: Path) -> AsyncIterator[Edge]:
    app = web.Application()
    app.router.add_get("/health", told)
    behind = (await aiohttp_server(app)).make_url("/").authority
    plain, secure = any_port(), any_port()
    pem = certificate(tmp_path)
    environ = {"HTTP": f"127.0.0.1:{plain}", "HTTPS": f"127.0.0.1:{secure}", "CERTIFICATES": str(pem)}
    environ |= {place.upper().replace("-", "_"): behind for place in PLACES}
    with haproxy(tmp_path, environ):
        await until(lambda: listens(secure))
        yield Edge(
            f"http://localhost:{plain}", f"https://localhost:{secure}", ssl.create_default_context(cafile=str(pem))
        )


async def test_plain_http_is_sent_to_tls_and_told_to_stay_there(edge: Edge):
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{edge.plain}/health?a=1", allow_redirects=False) as answer:
            assert answer.status == 308
            assert answer.headers["Location"] == f"{edge.plain.replace('http:', 'https:')}/health?a=1"
        async with session.get(f"{edge.secure}/health", ssl=edge.trust) as answer:
            assert answer.status == 200
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


async def test_what_a_client_says_of_itself_is_replaced_by_what_is_true(edge: Edge):
    said = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "203.0.113.10"), ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Host", "evil.example")]  # fmt: skip
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{edge.secure}/health", headers=said, ssl=edge.trust) as answer,
    ):
        assert await answer.json() == {
            "X-Forwarded-For": ["127.0.0.1"],
            "X-Forwarded-Proto": ["https"],
            "X-Forwarded-Host": [edge.secure.removeprefix("https://")],
        }
