"""Durable events at an even pace, through the front door."""

import asyncio
import time

import aiohttp
import msgspec

from ottoai.domain.events import tenant_channel


class Emitter:
    """Emits test events to tenants in turn. `heads` is the last number that each channel got."""

    def __init__(self, base: str, tenants: int, size: int) -> None:
        self.heads: dict[str, int] = {}
        self.failed = 0
        self._base = base
        self._tenants = [f"bench-{n}" for n in range(tenants)]
        self._filler = "x" * size
        self._count = 0

    async def emit(self, rate: int, seconds: float, until: asyncio.Event | None = None) -> None:
        """Emit for so long, or until that happens."""
        async with aiohttp.ClientSession(headers={"X-Dev-Key": "bench"}) as session:
            started = time.monotonic()
            tasks = []
            for n in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, started + n / rate - time.monotonic()))
                if until is not None and until.is_set():
                    break
                tasks.append(asyncio.create_task(self._one(session)))
            await asyncio.gather(*tasks)

    async def _one(self, session: aiohttp.ClientSession) -> None:
        tenant = self._tenants[self._count % len(self._tenants)]
        self._count += 1
        data = msgspec.json.encode({"sent": f"{time.monotonic():.6f}", "filler": self._filler})
        url = f"{self._base}/ws/test-emit?event=test.bench&tenant_id={tenant}"
        try:
            async with session.post(url, data=data, headers={"Content-Type": "application/json"}) as response:
                if response.status != 200:
                    self.failed += 1
                    return
                seq = msgspec.json.decode(await response.read())["seq"]
        except aiohttp.ClientError:
            self.failed += 1
            return
        channel = tenant_channel(tenant)
        self.heads[channel] = max(seq, self.heads.get(channel, 0))
