"""One trace from a missed call's webhook to the text that answers it, as a real receiver gets it of real processes."""

import asyncio

import aiohttp
import msgspec
import pytest

from ottoai import samples
from ottoai.client import connect
from ottoai.webhooks import callrail
from tests.collector import collecting
from tests.conftest import execute
from tests.e2e.conftest import SIGNING_KEY, STOPPED_WITHIN, Product, eventually, texts
from tests.helpers import report

REQUEST = "POST /call-rail/{kind}/{hook}"
# Each step with the one that it is a part of, or goes on from.
STEPS = {
    "db record_report": REQUEST,
    "job follow_up": REQUEST,
    "db advance_rescue": "job follow_up",
    "job send_text": "job follow_up",
    "send text": "job send_text",
    "db record_development_text": "send text",
}
SERVICES = {REQUEST: "ottoai-api", "socket write": "ottoai-api", "job send_text": "ottoai-worker"}


async def miss_a_call(product, hook) -> tuple[str, int]:
    """A signed webhook to the tenant's own address; (trace id, the call's id)."""
    call_id = samples.new_call_id()
    data = msgspec.json.encode(report("call-complete", call_id))
    headers = {"Content-Type": "application/json", "Signature": callrail.sign(data, SIGNING_KEY)}
    url = f"{product.base}/call-rail/call-complete/{hook}?from=%2B12125550147"
    async with (
        asyncio.timeout(5),
        aiohttp.ClientSession() as session,
        session.post(url, data=data, headers=headers) as response,
    ):
        assert response.status == 200
        return response.headers["X-Request-Id"], call_id


@pytest.mark.timeout(240)
async def test_one_trace_whatever_its_receiver_does(tmp_path_factory):
    with collecting() as collector:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_SAMPLER_ARG": "1", "PROBE_SECONDS": "0"}
        product = Product(tmp_path_factory.mktemp("traces"), **settings)
        try:
            product.start()
            database_url, token = product.config.database_url, product.token()
            ((hook,),) = execute(database_url, "select value from tenant_routes where kind = 'hook'")
            async with connect(product.base, token) as socket:
                await socket.subscribe("tenant:demo:events")
                trace, call_id = await miss_a_call(product, hook)
                await eventually(lambda: texts(database_url, [call_id]), 30)
                await check(collector, trace)
            phones = {
                str(phone).lstrip("+") for (phone,) in execute(database_url, "select recipient from development_texts")
            }
            sent = b"".join(collector.bodies)
            for secret in (hook, token, SIGNING_KEY, "12125550147", "?from", samples.TRACKING_NUMBER[1:], *phones):
                assert str(secret).encode() not in sent, secret
            for manner in ("hangs", "fails", "away"):
                if manner == "away":
                    collector.close()
                else:
                    collector.manner, before = manner, collector.asked
                _, call_id = await miss_a_call(product, hook)
                await eventually(lambda call_id=call_id: texts(database_url, [call_id]), 30)
                if manner != "away":
                    await eventually(lambda before=before: collector.asked > before, 30)
            assert product.stop() < STOPPED_WITHIN
        finally:
            product.kill()


async def check(collector, trace: str) -> None:
    """Wait for the whole trace, and look at how it hangs together."""

    def whole():
        found = {span.name: span for _, span in collector.sent() if span.trace_id.hex() == trace}
        return found if found.keys() >= {REQUEST, *STEPS, "publish", "socket write"} else None

    found = await eventually(whole, 40)
    for name, parent in STEPS.items():
        assert found[name].parent_span_id == found[parent].span_id, (name, parent)
    ours = [(service, span) for service, span in collector.sent() if span.trace_id.hex() == trace]
    published = {span.span_id: span for _, span in ours if span.name == "publish"}
    writes = [span for _, span in ours if span.name == "socket write"]
    assert writes
    assert {span.parent_span_id for span in writes} <= published.keys()
    causes = {found[name].span_id for name in (REQUEST, "job send_text", "job follow_up")}
    assert {span.parent_span_id for span in published.values()} <= causes
    services = {span.name: service for service, span in ours}
    assert {name: services[name] for name in SERVICES} == SERVICES
    assert found[REQUEST].parent_span_id == b""
    told = {each.key for _, span in ours for each in span.attributes}
    assert told <= {
        "http.request.method", "http.route", "http.response.status_code", "network.protocol.version", "url.scheme",
        "db.system.name", "events", "peer.service", "place", "sockets",
    }  # fmt: skip
