"""1,000 sockets on one channel, served by one process on one core; and the same of other people's servers.

Events come from another process: through Redis for the product, as after a commit elsewhere; by the peers' own ways of
publishing for them. Times run from just before the publishing to the receipt by the client.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from scripts.bench.cores import load_cores, on_cores
from scripts.bench.crowd import Ask, crowd
from scripts.bench.measure import Bound, Result, cpu_seconds, figures, histogram_percentile, median, percentile
from scripts.bench.peers import nats, nginx
from scripts.bench.taps import Taps
from scripts.bench.targets import SIZE, Target, ottoai

SOCKETS = 1_000
REPEATS = 3
SECONDS = 3
GRACE = 8.0  # seconds after the last event in which a server may deliver what it still has
RATES = {10: 0.025, 400: 0.060}  # events a second: goal at p99 in seconds
CPU_GOAL = 1.3e-6  # seconds of the API's processor per delivery, at the highest rate

Figures = dict[str, float]


async def run() -> dict[str, Result]:
    """Both rates on all servers."""
    measured: dict[int, dict[str, Figures]] = {rate: {} for rate in RATES}
    for opener in (ottoai, nginx, nats):
        async with AsyncExitStack() as stack:
            stack.enter_context(on_cores(load_cores()))
            target = await stack.enter_async_context(opener())
            if target is None:
                print(f"  {opener.__name__} is not installed: no comparison with it")
                continue
            ask = await stack.enter_async_context(crowd(Taps))
            await ask("join", base=target.base, steps=target.steps(SOCKETS))
            for rate in RATES:
                before = await figures(target.base) if target.ours else {}
                runs = [await once(target, ask, rate, SOCKETS) for _ in range(REPEATS)]
                measured[rate][target.name] = {name: median([one[name] for one in runs]) for name in runs[0]}
                # A loss is not averaged away.
                for name in ("lost", "closed", "disordered"):
                    measured[rate][target.name][name] = max(one[name] for one in runs)
                if target.ours:
                    lag = histogram_percentile(before, await figures(target.base), "event_loop_lag_seconds", 0.99)
                    measured[rate][target.name]["loop_lag_p99_ms"] = lag * 1000
    return {f"broadcast {rate}/s": _result(rate, measured[rate]) for rate in sorted(measured, reverse=True)}


async def once(target: Target, ask: Ask, rate: int, sockets: int) -> Figures:
    """So many events a second for three seconds, to so many sockets."""
    await ask("begin", pong=target.pong)
    count = rate * SECONDS
    receiving = asyncio.create_task(ask("finish", size=target.size, count=count, seconds=SECONDS + GRACE))
    cpu = cpu_seconds(target.process)
    started = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        target.publish(number)
    got: dict[str, Any] = await receiving
    cpu = cpu_seconds(target.process) - cpu
    took = max(got["last"] - started, SECONDS)
    return {
        "deliveries_per_second": got["deliveries"] / took,
        "p50_ms": median(got["latencies"]) * 1000,
        "p99_ms": percentile(got["latencies"], 0.99) * 1000,
        "cpu_us": cpu / max(got["deliveries"], 1) * 1e6,
        "cpu_share": cpu / took,
        "load_cpu_share": got["cpu"] / took,
        "lost": sockets * count - got["deliveries"],
        "incomplete": sockets - got["complete"],
        "closed": got["closed"],
        "disordered": got["disordered"],
    }


def _told(peer: Figures | None) -> str:
    if peer is None:
        return "not installed"
    return "{deliveries_per_second:,.0f}/s, p99 {p99_ms:.1f} ms, {cpu_us:.2f} µs".format(**peer)


def _result(rate: int, servers: dict[str, Figures]) -> Result:
    ours = servers["OttoAI"]
    goal = f"nothing dropped, p99 ≤ {RATES[rate] * 1000:.0f} ms"
    others = {name: each for name, each in servers.items() if name != "OttoAI"}
    bounds = [
        Bound("deliveries a second", "/s", ours["deliveries_per_second"], rate * SOCKETS, least=True, slack=0.02,
              guide=10_000, peers={name: each["deliveries_per_second"] for name, each in others.items()}),
        Bound("p99 from publishing to receipt", "ms", ours["p99_ms"], RATES[rate] * 1000, guide=150,
              peers={name: each["p99_ms"] for name, each in others.items()}),
    ]  # fmt: skip
    if rate == max(RATES):
        goal += f", ≤ {CPU_GOAL * 1e6} µs CPU per delivery"
        bounds.append(
            Bound("processor per delivery", "µs", ours["cpu_us"], CPU_GOAL * 1e6,
                  peers={name: each["cpu_us"] for name, each in others.items()})
        )  # fmt: skip
    details: dict[str, Any] = {"ours": ours}
    for name, peer in others.items():
        ratios = {key: ours[key] / peer[key] for key in ("deliveries_per_second", "p50_ms", "p99_ms", "cpu_us")}
        details |= {name: peer, f"ours / {name}": ratios}
    return Result(
        f"1,000 sockets, {rate} events/s of {SIZE} bytes (frames of {SIZE + 4}), one core",
        goal,
        f"{ours['deliveries_per_second']:,.0f} deliveries/s, p50 {ours['p50_ms']:.1f} ms, p99 {ours['p99_ms']:.1f} ms, "
        f"{ours['lost']:.0f} dropped, {ours['closed']:.0f} closed, {ours['cpu_us']:.2f} µs CPU each, "
        f"loop lag p99 ≤ {ours['loop_lag_p99_ms']:.0f} ms",
        tuple(bounds),
        {
            "events missing": int(ours["lost"] + ours["incomplete"]),
            "events out of order": int(ours["disordered"]),
            "connections dropped": int(ours["closed"]),
        },
        "10,000/s, 150 ms",
        {name: _told(servers.get(name)) for name in ("nginx + nchan", "nats-server")},
        details,
    )
