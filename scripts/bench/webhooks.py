"""Signed webhooks at a steady pace, of 50 tenants and of one, and what they take."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from ottoai import samples
from ottoai.memory import settle
from ottoai.webhooks import callrail
from scripts.bench import pgbench
from scripts.bench.askers import Poster, post
from scripts.bench.harness import KEY, stage
from scripts.bench.measure import Bound, Result, cpu_seconds, median, percentile

TENANTS = 50
PER_SECOND = 600
OF_ONE = 150  # a second, all of one tenant
SECONDS = 10
PATH = "/call-rail/call-complete"
GOAL = 0.050  # seconds at p99


class Sent(msgspec.Struct):
    """What became of the webhooks that were sent."""

    at: dict[str, float] = {}  # when each went out, by the call's external id (monotonic time)
    latencies: list[float] = []  # of the answers
    statuses: dict[int, int] = {}
    took: float = 0.0

    @property
    def refused(self) -> int:
        """Those that were not taken in."""
        return sum(count for status, count in self.statuses.items() if status != 200)


async def run() -> dict[str, Result]:
    """600 missed calls a second of 50 tenants, 150 of one; the same statements in pgbench."""
    async with stage(TENANTS) as on:
        cpu = cpu_seconds(on.api)
        sent = await send(on.base, PER_SECOND, SECONDS)
        cpu = cpu_seconds(on.api) - cpu
        one = await send(on.base, OF_ONE, SECONDS, lambda n: signed(TENANTS * (10**6 + n)))
        peer = await pgbench.transactions(on.config.database_url, TENANTS)
    details = {"api_cpu": cpu / sent.took, "cpu_ms_each": cpu / len(sent.latencies) * 1000, **peer}
    told = "{pgbench_per_second:,.0f}/s, p99 {pgbench_p99_ms:.1f} ms".format(**peer) if peer else "not installed"
    return {
        "webhooks": _result(f"signed webhooks, {TENANTS} tenants", PER_SECOND, sent, details, {"pgbench": told}),
        "webhooks one tenant": _result("signed webhooks, all of one tenant", OF_ONE, one, {}, {}),
    }


def _result(what: str, pace: int, sent: "Sent", details: dict[str, float], peers: dict[str, str]) -> Result:
    cost = f", {details['cpu_ms_each']:.2f} ms of the API's processor each" if details else ""
    rate, p99 = sent.statuses.get(200, 0) / sent.took, percentile(sent.latencies, 0.99) * 1000
    return Result(
        what,
        f"{pace}/s, p99 ≤ {GOAL * 1000:.0f} ms, all 200",
        f"{rate:.0f}/s, p50 {median(sent.latencies) * 1000:.1f} ms, p99 {p99:.1f} ms, {sent.refused} not 200{cost}",
        (
            # The last answers come when the sending is over.
            Bound("webhooks a second", "/s", rate, pace, least=True, slack=0.02),
            Bound("p99 of the answer", "ms", p99, GOAL * 1000),
        ),
        {"errors": sent.refused},
        peers=peers,
        details=details,
    )


async def send(base: str, rate: int, seconds: int, make: Callable[[int], tuple[str, bytes, str]] | None = None) -> Sent:
    """Send missed calls of all tenants at an even pace; `make` makes the nth (external id, body, signature)."""
    made = map(make or signed, range(rate * seconds))
    ready = [(external_id, post(base, PATH, body, Signature=signature)) for external_id, body, signature in made]
    settle()  # a look of the collector at all that is ready would count as waiting
    sent, poster = Sent(), Poster(base)
    tasks = []
    started = time.monotonic()
    for n, (external_id, request) in enumerate(ready):
        # From when it was due, not from when it went out: a late start is waiting too.
        due = sent.at[external_id] = started + n / rate
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(poster.post(request, due)))
    await asyncio.gather(*tasks)
    sent.took = time.monotonic() - started
    poster.close()
    sent.latencies, sent.statuses = poster.posted.latencies, poster.posted.statuses
    return sent


def signed(n: int, company: int | None = None) -> tuple[str, bytes, str]:
    """A webhook of its own, of a company or of the 50 in turn: (external id, body, signature)."""
    phone = f"+1212{200 + n // 10_000 % 700:03}{n % 10_000:04}"
    report = samples.callrail(
        "call-complete",
        10**9 + n,
        company_id=1000 + n % TENANTS if company is None else company,
        company_resource_id=None,
        customer_phone_number=phone,
        tracking_phone_number=None,
    )
    body = msgspec.json.encode(report)
    return str(report["id"]), body, callrail.sign(body, KEY)
