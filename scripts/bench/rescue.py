"""From a missed call to its text at the carrier, through api, outbox, queue and worker, at a steady pace."""

import asyncio
import os
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec

from ottoai import samples
from ottoai.config import Config
from ottoai.db import open_pool
from ottoai.domain import tenants
from ottoai.embedded.folder import any_port
from ottoai.metrics import Metrics
from ottoai.vault import Vault
from ottoai.webhooks import callrail
from scripts.bench import webhooks
from scripts.bench.cores import child, every_core
from scripts.bench.harness import KEY, reached, stage
from scripts.bench.measure import Bound, Result, median, percentile

TENANTS = 50
PER_SECOND = 50
SECONDS = 20
GOAL = 2.0  # seconds at p95
SETTLED_WITHIN = 60.0


async def run() -> Result:
    """50 missed calls a second of 50 tenants, one api and one worker process."""
    port = any_port()
    carrier = f"http://127.0.0.1:{port}"
    python = [sys.executable, "-m"]
    with child([*python, "scripts.bench.carrier", str(port)], cores=every_core(), env=dict(os.environ)):
        await reached(f"{carrier}/taken")
        async with stage(TENANTS, env={"TWILIO_API_URL": carrier}) as on:
            await _give_numbers(on.config)
            with (
                child([*python, "jobs", "worker"], cores=every_core(), env=on.environ),
                child([*python, "jobs", "beat"], cores=every_core(), env=on.environ),
            ):
                await reached(f"{on.base}/internal/worker/heartbeat")
                sent = await webhooks.send(on.base, PER_SECOND, SECONDS, _signed)
                taken = await _taken(carrier, len(sent.at))
    due = {_key(int(external_id) - 10**9): at for external_id, at in sent.at.items()}
    waits = [at - due[account, phone] for account, phone, at in taken]
    times = Counter(Counter((account, phone) for account, phone, _ in taken).values())
    p95 = percentile(waits, 0.95)
    return Result(
        "missed call to text handed to the carrier",
        "50 calls a second, p95 ≤ 2 s, one text each",
        f"{len(taken)} texts of {len(due)} calls, p50 {median(waits) * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms, "
        f"p99 {percentile(waits, 0.99) * 1000:.0f} ms, most {max(waits) * 1000:.0f} ms",
        (Bound("p95 from missed call to carrier", "s", p95, GOAL),),
        {
            "errors": sent.refused,
            "failed tasks": len(due) - len({(account, phone) for account, phone, _ in taken}),
            "texts too many": sum((each - 1) * count for each, count in times.items()),
        },
        details={"webhooks": sent.statuses, "texts_a_call": dict(times)},
    )


async def _give_numbers(config: Config) -> None:
    async with open_pool(config, Metrics("bench")) as db:
        for n in range(TENANTS):
            given = {"twilio_sid": f"AC{n}", "twilio_token": "bench", "twilio_number": f"+1404555{n:04}"}
            await tenants.change(db.system(), Vault(config.secret_keys), f"bench-{n}", {}, given)


async def _taken(carrier: str, wanted: int) -> list[tuple[str, str, float]]:
    """What the carrier got, when it has all or some time has passed."""
    taken: list[Any] = []
    deadline = time.monotonic() + SETTLED_WITHIN
    async with aiohttp.ClientSession() as session:
        while len(taken) < wanted and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            async with session.get(f"{carrier}/taken") as response:
                taken = [(account, phone, at) for account, phone, at in await response.json()]
    return taken


def _key(n: int) -> tuple[str, str]:
    """Account and phone of a call: each caller of a tenant calls once, from where it is day."""
    return f"AC{n % TENANTS}", samples.daytime_phone(datetime.now(UTC), 100 + n // TENANTS)


def _signed(n: int) -> tuple[str, bytes, str]:
    report = samples.callrail(
        "call-complete",
        10**9 + n,
        company_id=1000 + n % TENANTS,
        company_resource_id=None,
        customer_phone_number=_key(n)[1],
        tracking_phone_number=None,
    )
    body = msgspec.json.encode(report)
    return str(report["id"]), body, callrail.sign(body, KEY)
