"""Operators as browsers and curl make them: who they are, what their pages hold, which buttons they press."""

import re
from typing import Any, NamedTuple

import aiohttp
from aiohttp import encode_basic_auth

USERS = "olga:open-sesame:operator,vera:just-looking:viewer"


class Answer(NamedTuple):
    """What came back, redirects not followed."""

    status: int
    headers: Any
    text: str


class Operator:
    """Somebody at the operator pages of one process."""

    def __init__(self, base: str, name: str = "olga", password: str = "open-sesame") -> None:
        self.base = base
        self.auth = {"Authorization": encode_basic_auth(name, password)} if name else {}

    async def get(self, path: str) -> Answer:
        """A page."""
        return await self._ask("GET", path)

    async def token(self, path: str = "/ops/jobs") -> str:
        """The token of a page with a button on it."""
        found = re.search(r'name="csrf" value="([^"]+)"', (await self.get(path)).text)
        assert found, path
        return found[1]

    async def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> Answer:
        """A form, just as given."""
        return await self._ask("POST", path, data=fields, headers=headers or {})

    async def _ask(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> Answer:
        options |= {"headers": {**self.auth, **(headers or {})}, "allow_redirects": False}
        async with aiohttp.ClientSession() as session, session.request(method, self.base + path, **options) as response:
            return Answer(response.status, response.headers, await response.text())
