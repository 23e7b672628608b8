"""What recording traces costs: the same webhooks with none recorded, a tenth (the default) and all, in turn."""

import os
import sys
from contextlib import AsyncExitStack

import aiohttp

from ottoai.embedded.folder import any_port
from scripts.bench.cores import child, every_core
from scripts.bench.harness import Api, api_process, reached, stage
from scripts.bench.measure import Result, cpu_seconds, median, percentile
from scripts.bench.webhooks import TENANTS, Sent, send, signed

PER_SECOND = 200
SECONDS = 3  # of a round
ROUNDS = 3
SHARES = {"none": None, "a tenth": "0.1", "all": "1"}
Round = tuple[float, float]  # ms of processor a webhook, p99 in ms


async def run() -> Result:
    """Three api processes of one stage, which differ in that alone."""
    port = any_port()
    collector = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "scripts.bench.collector", str(port)]
    rounds: dict[str, list[Round]] = {share: [] for share in SHARES}
    refused = 0
    with child(words, cores=every_core(), env=dict(os.environ)):
        await reached(f"{collector}/taken")
        async with stage(TENANTS, apis=0) as on, AsyncExitStack() as stack:
            apis = {}
            for name, share in SHARES.items():
                more = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_TRACES_SAMPLER_ARG": share} if share else {}
                apis[name] = await stack.enter_async_context(api_process({**on.environ, **more}, every_core()))
            turns = [(name, apis[name]) for _ in range(ROUNDS) for name in SHARES]
            for turn, (name, api) in enumerate(turns):
                sent, cost = await _once(api, turn)
                rounds[name].append(cost)
                refused += sent.refused
        taken = await _taken(collector)
    cpu = {name: median([each for each, _ in costs]) for name, costs in rounds.items()}
    p99 = {name: median([each for _, each in costs]) for name, costs in rounds.items()}
    return Result(
        f"signed webhooks with traces recorded, {PER_SECOND}/s",
        "no goal: what it costs",
        f"processor × {cpu['a tenth'] / cpu['none']:.2f} with a tenth, × {cpu['all'] / cpu['none']:.2f} with all",
        faults={"errors": refused, "traces that never came": int(not taken["requests"])},
        details={
            "cpu_ms_each": cpu,
            "p99_ms": p99,
            "kB_each_recorded": taken["bytes"] / 1000 / (PER_SECOND * SECONDS * ROUNDS * 1.1),
        },
    )


async def _once(api: Api, turn: int) -> tuple[Sent, Round]:
    count, before = PER_SECOND * SECONDS, cpu_seconds(api.process)
    sent = await send(api.base, PER_SECOND, SECONDS, lambda n: signed(turn * count + n))
    cpu = cpu_seconds(api.process) - before
    return sent, (cpu / count * 1000, percentile(sent.latencies, 0.99) * 1000)


async def _taken(collector: str) -> dict[str, int]:
    """What came; the processes have ended, and sent what they had."""
    async with aiohttp.ClientSession() as session, session.get(f"{collector}/taken") as answer:
        found: dict[str, int] = await answer.json()
        return found
