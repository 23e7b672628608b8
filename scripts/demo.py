"""`make demo`: a missed call comes in, every step of it arrives over a WebSocket, and a text answers it."""

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec

from ottoai import embedded, samples
from ottoai.client import connect
from ottoai.commands import signing_key
from ottoai.config import Config
from ottoai.domain.events import tenant_channel
from ottoai.domain.roles import Role
from ottoai.errors import OttoError
from ottoai.web.auth import issue
from ottoai.webhooks import callrail

TENANT = "demo"
LAST = "missed_call.texted"
WITHIN = 20.0  # seconds for the text to go out; it takes well under one
QUIET = 1.5  # seconds of listening after the duplicate, in which nothing must come


def describe(event: dict[str, Any]) -> str:
    """The part of an event's data that tells the story."""
    data = event["data"]
    told = ("status", "direction", "answered", "customer_name", "name", "body")
    return ", ".join(f"{name}={data[name]!r}" for name in told if data.get(name) is not None)


async def post(session: aiohttp.ClientSession, base: str, body: bytes, key: str) -> dict[str, Any]:
    """Send the webhook as CallRail does."""
    headers = {"Content-Type": "application/json", "Signature": callrail.sign(body, key)}
    async with session.post(f"{base}/call-rail/call-complete", data=body, headers=headers) as response:
        answer: dict[str, Any] = await response.json()
        print(f"  {response.status} {msgspec.json.encode(answer).decode()}")
        return answer


async def heard(session: aiohttp.ClientSession, base: str, token: str) -> list[str]:
    """The phones of those who called before, the latest first."""
    headers = {"Authorization": f"Bearer {token}"}
    async with session.get(f"{base}/api/leads?limit=200", headers=headers) as response:
        return [lead["phone"] for lead in (await response.json())["items"]]


async def demo(config: Config, base: str) -> int:
    """Show it; the exit code."""
    key = await signing_key(config, TENANT)
    token = issue(config, TENANT, "demo-user", Role.MEMBER, timedelta(minutes=5))
    async with connect(base, token) as socket, aiohttp.ClientSession() as session:
        phone = samples.quiet_phone(datetime.now(UTC), await heard(session, base, token))
        report = samples.callrail("call-complete", samples.new_call_id(), customer_phone_number=phone)
        body = msgspec.json.encode(report)
        await socket.subscribe(tenant_channel(TENANT))
        print(f"Listening to {tenant_channel(TENANT)} at {base}/ws")
        print("\nA call was missed. CallRail reports it:")
        started = time.perf_counter()
        await post(session, base, body, key)
        print("\nWhat every open screen of the company sees:")
        seen = []
        while not seen or seen[-1]["event"] != LAST:
            event = await socket.event(timeout=WITHIN)
            seen.append(event)
            took = (time.perf_counter() - started) * 1000
            print(f"  {took:6.0f} ms  seq {event['seq']:<5} {event['event']:<26} {describe(event)}")
        print("\nThe same webhook once more:")
        again = await post(session, base, body, key)
        try:
            extra = await socket.event(timeout=QUIET)
        except TimeoutError:
            extra = None
    numbers = [event["seq"] for event in seen]
    well = (
        numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        and again["status"] == "duplicate_ignored"
        and extra is None
    )
    print("  and no event." if extra is None else f"  but an event came: {extra['event']}")
    print("\nDone." if well else "\nThis is not as it should be.")
    return 0 if well else 1


def main(environ: dict[str, str]) -> int:
    """Run the demo against the local API."""
    try:
        config = Config.load(embedded.discover(environ))
        return asyncio.run(demo(config, environ.get("BASE") or f"http://127.0.0.1:{config.port}"))
    except OttoError as error:
        print(error.detail, file=sys.stderr)
    except TimeoutError:
        print(f"No text within {WITHIN:.0f} s: is the worker running?", file=sys.stderr)
    except (aiohttp.ClientError, OSError) as error:
        print(f"Nothing answers: {error}. Start it first, in another terminal: make run", file=sys.stderr)
    return 1


if __name__ == "__main__":
    import os

    sys.exit(main(dict(os.environ)))
