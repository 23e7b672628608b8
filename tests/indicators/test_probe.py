"""The self-probe: late, and not coming through."""

import asyncio
import time

import pytest

from ottoai.metrics import Metrics
from ottoai.ops import probes
from ottoai.web import keys
from tests.background import serving

drives = pytest.mark.drives
configured = pytest.mark.configured


@drives("probe_event", "warning", "critical")
@configured(ALERT_BOUNDS="probe_event.warning=0.2,probe_event.critical=0.7")
async def test_late_events(watch, config):
    prober = watch.app[keys.PROBER]

    def heavy(seconds):
        async def cause():
            probing = asyncio.create_task(prober.run_once())
            while not probing.done():
                time.sleep(seconds)  # noqa: ASYNC251 - something that takes the loop for itself
                await asyncio.sleep(0)

        return cause

    async with serving(config, Metrics("test", "worker"), name="worker-one-1"):
        await prober.run_once()
        await watch.settled("probe_event")
        await watch.passes("probe_event", "warning", heavy(0.1))
        await watch.passes("probe_event", "critical", heavy(0.3))


@drives("probe_job", "warning", "critical")
@configured(ALERT_BOUNDS="probe_job.warning=0.4,probe_job.critical=1.5")
async def test_late_jobs(watch, config):
    prober = watch.app[keys.PROBER]
    metrics = Metrics("test", "worker")

    def late(seconds):
        async def cause():
            probing = asyncio.create_task(prober.run_once())
            await asyncio.sleep(seconds)
            async with serving(config, metrics, name="worker-one-1"):
                await probing

        return cause

    await watch.settled("probe_job")
    await watch.passes("probe_job", "warning", late(0.6))
    await watch.passes("probe_job", "critical", late(2.2))


@drives("probe_failed", "warning", "critical")
async def test_nobody_works(watch, monkeypatch):
    monkeypatch.setattr(probes, "JOB_WITHIN", 0.3)
    await watch.settled("probe_failed")
    probe = watch.app[keys.PROBER].run_once
    await watch.passes("probe_failed", "warning", probe)
    for _ in range(4):
        await probe()
    await watch.passes("probe_failed", "critical")
