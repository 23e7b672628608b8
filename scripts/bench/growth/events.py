"""Events a second, 10 → 1,000, on 100 sockets of one channel; API alone on one core."""

from scripts.bench.broadcast import once
from scripts.bench.cores import load_cores, on_cores
from scripts.bench.crowd import crowd
from scripts.bench.growth.axis import Axis, Collected
from scripts.bench.taps import Taps
from scripts.bench.targets import SIZE, ottoai

SOCKETS = 100
RATES = (10, 30, 100, 300, 1_000)


async def run() -> Axis:
    """One rate after the other, on the same sockets."""
    got = Collected()
    with on_cores(load_cores()):
        async with ottoai() as target, crowd(Taps) as ask:
            await ask("join", base=target.base, steps=target.steps(SOCKETS))
            for rate in RATES:
                one = await once(target, ask, rate, SOCKETS)
                got.step(rate, {
                    ("lag", "p50", "ms"): one["p50_ms"],
                    ("lag", "p99", "ms"): one["p99_ms"],
                    ("cost", "processor per event", "µs"): one["cpu_us"] * SOCKETS,
                    ("cost", "processor per delivery", "µs"): one["cpu_us"],
                    ("share", "processor of the api process", "% of a core"): one["cpu_share"] * 100,
                })  # fmt: skip
                got.fault("events missing", int(one["lost"]))
                got.fault("connections dropped", int(one["closed"]))
    return got.axis(
        "events a second", f"{SOCKETS} sockets on one channel, events of {SIZE} bytes from another process, 3 s each",
        "lag", "cost",
    )  # fmt: skip
