"""docs/howto/provider.md, followed: a webhook of the new provider becomes a call and its events."""

import hmac
from datetime import UTC, datetime
from io import BytesIO

import aiohttp
import msgspec
import pytest

from ottoai import samples
from ottoai.client import connect

SECRET = "canary-secret-ringlane"

pytestmark = pytest.mark.timeout(180)


async def ring(base, body, signature=None):
    data = msgspec.json.encode(body)
    given = hmac.digest(SECRET.encode(), data, "sha256").hex() if signature is None else signature
    headers = {"X-Ringlane-Signature": given, "Content-Type": "application/json"}
    url = f"{base}/ringlane/call-ended"
    async with aiohttp.ClientSession() as session, session.post(url, data=BytesIO(data), headers=headers) as response:
        return response.status, (await response.json()).get("status")


async def test_provider(follow, make_token):
    copy = follow("provider")
    added = ("--name", "Acme Plumbing", "--hours", "always", "--ringlane-account", "rl_77", "--ringlane-secret", "-")
    assert copy.python("-m", "ottoai", "tenant", "add", "acme", *added, typed=f"{SECRET}\n").returncode == 0
    await copy.start("api")
    told = {"account": "rl_77", "call": "c-1", "caller": samples.daytime_phone(datetime.now(UTC), 150)}
    told |= {"answered": False, "seconds": 0, "started_at": datetime.now(UTC)}
    async with connect(copy.base, make_token("acme")) as socket:
        await socket.subscribe("tenant:acme:events")
        assert (await ring(copy.base, told, "guessed"))[0] == 401
        assert await ring(copy.base, told) == (200, "processed")
        assert await ring(copy.base, told) == (200, "duplicate_ignored")
        heard = [(await socket.event())["event"] for _ in range(5)]
    assert heard[-2:] == ["telephony.call.missed", "missed_call.queued"]
    calls = await copy.json("/api/calls", Authorization=f"Bearer {make_token('acme')}")
    assert [(call["provider"], call["missed"]) for call in calls["items"]] == [("ringlane", True)]
    described = await copy.json("/openapi.json")
    assert described["paths"]["/ringlane/{kind}"]["post"]["security"][0] == {"ringlaneSignature": []}
    copy.finish()
