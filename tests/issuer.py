"""Somebody else who issues tokens: RSA keys, a server that shows their public halves, and its failures."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import jwt
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm


@cache
def private_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key of that name; making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def jwk(kid: str, name: str = "", /, **fields: Any) -> dict[str, Any]:
    """The public half of a key, as Clerk shows it."""
    public = RSAAlgorithm.to_jwk(private_key(name or kid).public_key(), as_dict=True)
    return {"use": "sig", "kty": "RSA", "kid": kid, "alg": "RS256", "n": public["n"], "e": public["e"]} | fields


def claims_of(**given: Any) -> dict[str, Any]:
    """The claims of a session token (v1), for the tenant demo; None leaves one out."""
    now = int(time.time())
    claims = {"sub": "ann", "org_id": "demo", "org_role": "org:member", "iat": now, "exp": now + 600} | given
    return {name: value for name, value in claims.items() if value is not None}


def signed(kid: str, name: str = "", **claims: Any) -> str:
    """A token, signed with the key of that id (or another one's)."""
    return jwt.encode(claims_of(**claims), private_key(name or kid), "RS256", headers={"kid": kid})


class Issuer:
    """Shows a key set. `kids` are its keys, `asked` counts fetches; `body`, `status` and `hanging` are its failures."""

    def __init__(self) -> None:
        self.kids = ["one"]
        self.asked = 0
        self.body: bytes | None = None
        self.status = 200
        self.headers: dict[str, str] = {}
        self.answering = asyncio.Event()
        self.answering.set()
        self.url = ""

    async def show(self, _request: web.Request) -> web.Response:
        """Answer as it does now."""
        self.asked += 1
        await self.answering.wait()
        body = self.body if self.body is not None else msgspec.json.encode({"keys": [jwk(kid) for kid in self.kids]})
        return web.Response(status=self.status, body=body, headers=self.headers)

    async def show_two(self, _request: web.Request) -> web.Response:
        """Another address, with another key."""
        return web.json_response({"keys": [jwk("two")]})

    def hang(self) -> None:
        """Take every question and answer none."""
        self.answering.clear()

    def recover(self) -> None:
        """Answer well again, those who still wait too."""
        self.body, self.status, self.headers = None, 200, {}
        self.answering.set()


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """An issuer with its server, on a free port."""
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/.well-known/jwks.json", issuer.show)
    app.router.add_get("/elsewhere", issuer.show_two)
    async with TestServer(app) as server:
        issuer.url = str(server.make_url("/.well-known/jwks.json"))
        try:
            yield issuer
        finally:
            issuer.recover()
