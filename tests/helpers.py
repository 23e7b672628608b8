"""What tests say often, in the domain's words."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from multidict import CIMultiDict

from ottoai import samples
from ottoai.db import Session
from ottoai.domain.revocations import Revocation
from ottoai.web import keys
from ottoai.webhooks import callrail
from tests.canary import RECORDING_KEY
from tests.conftest import SIGNING_KEY

_callers = itertools.cycle(range(200, 1000))  # numbers of places; the samples themselves have those below


async def deliver(
    base: str, kind: str, body: dict[str, Any] | bytes, *, tenant: str = "demo", key: str | None = None, hook: str = ""
) -> tuple[int, dict[str, Any]]:
    """Send a signed CallRail webhook; (status, answer). `key=""` sends it unsigned."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    key = SIGNING_KEY.format(tenant) if key is None else key
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Signature"] = callrail.sign(data, key)
    url = f"{base}/call-rail/{kind}" + (f"/{hook}" if hook else "")
    async with aiohttp.ClientSession() as session, session.post(url, data=BytesIO(data), headers=headers) as response:
        return response.status, msgspec.json.decode(await response.read())


async def get(base: str, path: str, token: str | None = None, **headers: str) -> tuple[int, Any, Any]:
    """GET; (status, headers, decoded body)."""
    if token:
        headers["Authorization"] = f"Bearer {token}"
    async with aiohttp.ClientSession() as session, session.get(base + path, headers=headers) as response:
        return response.status, response.headers, msgspec.json.decode(await response.read() or b"null")


async def send(
    base: str, method: str, path: str, token: str, body: Any = None, *headers: tuple[str, str]
) -> tuple[int, Any, Any]:
    """PATCH or POST a body, as JSON unless it is bytes; (status, headers, decoded body)."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    given = CIMultiDict([("Authorization", f"Bearer {token}"), *headers])
    if "Content-Type" not in given:
        given["Content-Type"] = "application/json"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, base + path, data=BytesIO(data), headers=given) as response,
    ):
        return response.status, response.headers, msgspec.json.decode(await response.read() or b"null")


@contextmanager
def lags() -> Iterator[list[float]]:
    """How late the loop wakes a sleeper, again and again while open; in seconds."""
    found: list[float] = []

    async def sample() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.002)
            found.append(time.perf_counter() - began - 0.002)

    task = asyncio.create_task(sample())
    try:
        yield found
    finally:
        task.cancel()


def looks_for_revoked(app: web.Application, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each look at what was revoked, from now on, whether it found something."""
    refresh, found = app[keys.REVOKED].refresh, []

    async def look(system: Session) -> tuple[Revocation, ...]:
        news = await refresh(system)
        found.append(bool(news))
        return news

    monkeypatch.setattr(app[keys.REVOKED], "refresh", look)
    return found


async def until(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait for something that tells nobody when it happens."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def report(kind: str, call_id: int | None = None, **fields: Any) -> dict[str, Any]:
    """A CallRail report about a call, with a recording, whose address holds a secret."""
    url = f"https://app.callrail.com/calls/CAL1/recording?access_key={RECORDING_KEY}"
    recording = {"recording": url, "recording_player": url}
    # From somebody else each time: who was texted within two hours is not texted again.
    caller = {"customer_phone_number": samples.daytime_phone(datetime.now(UTC), next(_callers))}
    return samples.callrail(kind, call_id or samples.new_call_id(), **caller | recording | fields)
