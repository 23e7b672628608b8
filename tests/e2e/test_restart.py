"""From the first start to the last stop: what is kept, what is told to clients, and that nothing stays behind."""

import asyncio
import signal

import pytest

from ottoai import samples
from ottoai.client import Closed, connect
from tests.e2e.conftest import (
    FIRST_EVENTS,
    STOPPED_WITHIN,
    TEXT_EVENTS,
    Product,
    eventually,
    post_missed_call,
    texts,
    watching,
)
from tests.helpers import get

BANNER = "OttoAI is ready"


@pytest.mark.timeout(150)
async def test_stopped_and_started_again_everything_is_there(tmp_path_factory):
    product = Product(tmp_path_factory.mktemp("restart"))
    call_id = samples.new_call_id()
    try:
        product.start()
        await eventually(lambda: BANNER in product.text())
        before = product.pids()
        assert sorted(before) == ["api", "beat", "dashboard", "postgres", "redis", "worker"]
        token = product.token()
        assert (await product.deliver(samples.callrail("call-complete", call_id)))[1]["status"] == "processed"
        await eventually(lambda: texts(product.config.database_url, [call_id]))

        await stop_with_an_open_socket(product, token)
        assert product.text().count(BANNER) == 1

        product.start()
        await eventually(lambda: product.text().count(BANNER) == 2)
        assert set(product.pids().values()).isdisjoint(before.values())
        status, _, page = await get(product.base, "/api/calls", token)
        assert status == 200
        assert [call["external_id"] for call in page["items"]] == [str(call_id)]
        head = product.head()
        assert head == len(FIRST_EVENTS + TEXT_EVENTS)
        async with watching(product.base, token, since=0) as screen:
            await post_missed_call(product.base, call_id + 1)
            await eventually(lambda: texts(product.config.database_url, [call_id + 1]))
            await eventually(lambda: screen.numbers == list(range(1, product.head() + 1)))
        assert product.stop(signal.SIGINT) < STOPPED_WITHIN
    finally:
        product.kill()


async def stop_with_an_open_socket(product, token):
    """SIGTERM: the client is told to come back, all exit by themselves."""
    async with connect(product.base, token) as socket:
        assert (await socket.subscribe("tenant:demo:events"))["success"]
        family = product.family()
        product.process.send_signal(signal.SIGTERM)
        assert (await socket.answer("reconnect"))["after_ms"] >= 0
        with pytest.raises(Closed) as closed:
            while True:
                await socket.receive()
        assert closed.value.code == 1012
        await asyncio.to_thread(product.ended, family)
    for service, message in {"api": "API stopped", "worker": "Worker stopped", "beat": "Beat stopped"}.items():
        assert len(product.log(service, message=message)) == 1  # of its own accord, not killed after the grace
