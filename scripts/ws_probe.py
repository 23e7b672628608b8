"""The WebSocket checks of scripts/smoke_realtime.sh, which curl cannot do: one line each, fields parted by 0x1F.

Reads BASE, TOKEN, TENANT, DEV_KEY and ENVIRONMENT. Prints verdict (ok, FAIL, skip), name, what was seen, what to do.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from ottoai.client import Closed, Message, Socket, connect
from ottoai.domain.events import tenant_channel
from ottoai.realtime.messages import PROTOCOL

ARRIVES_WITHIN: Final = 2.0  # seconds from the emit's answer to its event; with Redis away it comes from the log
WELCOME: Final = {"connection_id", "tenant_id", "user_id", "epoch", "seq", "heartbeat_seconds", "expires_at", "ts"}
BROKEN: Final = (aiohttp.ClientError, Closed, TimeoutError, OSError, KeyError)


class Failed(Exception):
    """A check did not pass: what was seen."""


@dataclass
class Probe:
    """What the checks share. `emitted` is what the first test event's answer said."""

    base: str
    token: str
    tenant: str
    dev_key: str
    environment: str
    http: aiohttp.ClientSession
    emitted: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0

    @property
    def channel(self) -> str:
        """The tenant's channel."""
        return tenant_channel(self.tenant)

    async def emit(self, **options: str) -> dict[str, Any]:
        """Ask for a test event; its answer."""
        query = {"event": "test.smoke", "tenant_id": self.tenant, **options}
        url, headers = f"{self.base}/ws/test-emit", {"X-Dev-Key": self.dev_key}
        async with self.http.get(url, params=query, headers=headers) as response:
            if response.status != 200:
                raise Failed(f"test-emit answers {response.status}: {(await response.text())[:120]}")
            answer: dict[str, Any] = await response.json()
            return answer


def need(condition: bool, seen: str) -> None:
    """Fail the check unless this holds."""
    if not condition:
        raise Failed(seen)


def check_welcome(probe: Probe, welcome: Message) -> str:
    """Whether a welcome is complete; what it says."""
    missing = WELCOME - welcome.keys()
    need(not missing, f"the welcome lacks {', '.join(sorted(missing))}")
    need(welcome["tenant_id"] == probe.tenant, f"welcomed as tenant {welcome['tenant_id']}, not {probe.tenant}")
    return f"welcome: user {welcome['user_id']}, at {welcome['epoch']}.{welcome['seq']}"


async def by_header(probe: Probe) -> str:
    """Connect with the token in the Authorization header."""
    async with connect(probe.base, probe.token) as socket:
        return check_welcome(probe, socket.welcome)


async def by_subprotocol(probe: Probe) -> str:
    """Connect with the token among the subprotocols, as a browser has to."""
    offered = [PROTOCOL, f"bearer.{probe.token}"]
    async with probe.http.ws_connect(f"{probe.base}/ws", protocols=offered) as raw:
        need(raw.protocol == PROTOCOL, f"the server selected {raw.protocol!r}")
        return check_welcome(probe, await Socket(raw).answer("welcome"))


async def by_first_message(probe: Probe) -> str:
    """Connect without a token and send it."""
    async with connect(probe.base) as socket:
        await socket.send(type="auth", token=probe.token)
        return check_welcome(probe, await socket.answer("welcome"))


async def refused(probe: Probe) -> str:
    """Connect with a forged token."""
    try:
        async with connect(probe.base, probe.token[:-5] + "AAAAA"):
            raise Failed("a forged token was let in")
    except aiohttp.WSServerHandshakeError as error:
        need(error.status == 401, f"refused with {error.status}, not 401")
    return "401 before the upgrade"


async def ping(probe: Probe) -> str:
    """Ask for a pong."""
    async with connect(probe.base, probe.token) as socket:
        started = time.perf_counter()
        await socket.send(type="ping")
        await socket.answer("pong")
        return f"{(time.perf_counter() - started) * 1000:.1f} ms"


async def own_channel(probe: Probe) -> str:
    """Subscribe to the tenant's channel."""
    async with connect(probe.base, probe.token) as socket:
        result = await socket.subscribe(probe.channel)
        need(result["success"] is True, f"refused: {result['error']}")
        probe.epoch = result["epoch"]
        return f"joined at {result['epoch']}.{result['seq']}"


async def foreign_channel(probe: Probe) -> str:
    """Subscribe to another tenant's channel."""
    async with connect(probe.base, probe.token) as socket:
        result = await socket.subscribe(tenant_channel(f"not-{probe.tenant}"))
        need(result["success"] is False, "joined another tenant's channel")
        return f"refused: {result['error']}"


@asynccontextmanager
async def listening(probe: Probe, since: str | None = None) -> AsyncIterator[tuple[Socket, Message]]:
    """A connection that has joined the tenant's channel, and how."""
    async with connect(probe.base, probe.token) as socket:
        result = await socket.subscribe(probe.channel, since)
        need(result["success"] is True, f"cannot subscribe: {result['error']}")
        yield socket, result


async def wait_for(socket: Socket, trace_id: str) -> Message:
    """The event of this trace; the tenant's others are passed over."""
    async with asyncio.timeout(ARRIVES_WITHIN):
        while True:
            event = await socket.event()
            if event["trace_id"] == trace_id:
                return event


async def delivered(probe: Probe) -> str:
    """Emit a test event and wait for it."""
    async with listening(probe) as (socket, _):
        answer = await probe.emit()
        answered = time.perf_counter()
        try:
            event = await wait_for(socket, answer["trace_id"])
        except TimeoutError:
            raise Failed(f"seq {answer['seq']} did not come within {ARRIVES_WITHIN:.0f} s") from None
        need(event["seq"] == answer["seq"], f"came with seq {event['seq']}, emitted as {answer['seq']}")
        probe.emitted = answer
        return f"seq {event['seq']}, {max(0.0, time.perf_counter() - answered) * 1000:.1f} ms after the answer"


async def resumed(probe: Probe) -> str:
    """Subscribe with `since` right before the emitted event."""
    need(bool(probe.emitted), "there is no delivered event to come back to")
    seq = probe.emitted["seq"]
    async with listening(probe, f"{probe.epoch}.{seq - 1}") as (socket, result):
        need(result["recovered"] is True, f"recovered is {result['recovered']}")
        event = await socket.event()
        need(event["seq"] == seq, f"the first replayed event has seq {event['seq']}, not {seq}")
        return f"recovered, {result['replayed']} replayed from seq {seq} on"


async def transient(probe: Probe) -> str:
    """Emit a transient event."""
    async with listening(probe) as (socket, _):
        answer = await probe.emit(transient="1")
        try:
            event = await wait_for(socket, answer["trace_id"])
        except TimeoutError:
            raise Failed("did not come; transient events travel through Redis alone") from None
        need(event["seq"] is None, f"came with seq {event['seq']}")
        return "came, seq null"


async def not_in_production(probe: Probe) -> str:
    """Whether production keeps the test emit closed."""
    async with probe.http.get(f"{probe.base}/ws/test-emit", headers={"X-Dev-Key": "dev"}) as response:
        need(response.status == 404, f"answers {response.status}")
        return "404: not served in production"


Check = Callable[[Probe], Awaitable[str]]

TOKEN_ADVICE: Final = "is TOKEN valid and its tenant known here? python -m ottoai token inspect - says more"
CONNECTED: Final[tuple[tuple[str, Check, str], ...]] = (
    ("token in the header", by_header, TOKEN_ADVICE),
    ("token as subprotocol", by_subprotocol, f"{TOKEN_ADVICE}; does a proxy drop Sec-WebSocket-Protocol?"),
    ("token as first message", by_first_message, TOKEN_ADVICE),
    ("forged token", refused, "expected 401: check JWT_SECRET at once"),
    ("ping", ping, "the api process is too busy, or a proxy holds frames back"),
    ("subscribe to the own channel", own_channel, "see the api log for the connection"),
    ("subscribe to a foreign channel", foreign_channel, "expected a refusal: a breach, investigate at once"),
)
EMITTED: Final[tuple[tuple[str, Check, str], ...]] = (
    ("test event arrives", delivered, "see the api log for the hub; is DEV_KEY one of DEV_KEYS?"),
    ("resume replays it", resumed, "the log did not give it back: look at the table events"),
    ("transient event arrives", transient, "is Redis up, and the same for all processes?"),
)


async def run(probe: Probe) -> None:
    """All checks, in order."""
    for name, check, advice in CONNECTED:
        await tell(probe, name, check, advice)
    if probe.environment == "production":
        await tell(probe, "/ws/test-emit", not_in_production, "is ENVIRONMENT right? It must not be served")
    for name, check, advice in EMITTED:
        if probe.environment == "production" or not probe.dev_key:
            say("skip", name, "nothing can be emitted: production, or DEV_KEY is not set")
        else:
            await tell(probe, name, check, advice)


async def tell(probe: Probe, name: str, check: Check, advice: str) -> None:
    """Do one check and say what came of it."""
    try:
        say("ok", name, await check(probe))
    except Failed as failed:
        say("FAIL", name, str(failed), advice)
    except BROKEN as error:
        say("FAIL", name, f"{type(error).__name__}: {error}"[:160] if str(error) else "no answer in time", advice)


def say(*fields: str) -> None:
    """One line."""
    print("\x1f".join(text.replace("\n", " ") for text in fields), flush=True)


async def main(environ: dict[str, str]) -> None:
    """Check the service that the environment names."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        await run(
            Probe(
                base=environ["BASE"],
                token=environ["TOKEN"],
                tenant=environ["TENANT"],
                dev_key=environ.get("DEV_KEY", ""),
                environment=environ.get("ENVIRONMENT", ""),
                http=http,
            )
        )


if __name__ == "__main__":
    if missing := {"BASE", "TOKEN", "TENANT"} - os.environ.keys():
        sys.exit(f"Not set: {', '.join(sorted(missing))}. scripts/smoke_realtime.sh sets them.")
    asyncio.run(main(dict(os.environ)))
