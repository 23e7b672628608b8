"""What the processes write: one JSON object a line, the guide's messages, one trace from webhook to text, no secret."""

import json
import re
from datetime import datetime

import aiohttp
import msgspec

from ottoai import samples
from ottoai.client import connect
from ottoai.webhooks import callrail
from tests.e2e.conftest import SERVICES, SIGNING_KEY, eventually, texts
from tests.helpers import get, report


def test_every_line_is_a_json_object_that_says_when_what_and_who(product):
    lines = product.raw_lines()
    assert {service for service, _ in lines} == set(SERVICES)
    for service, text in lines:
        line = json.loads(text)
        assert isinstance(line, dict)
        assert line["service"] == service
        assert isinstance(line["message"], str)
        assert line["level"] in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
        assert datetime.fromisoformat(line["timestamp"]).tzinfo


async def test_connection_established(product, token):
    async with connect(product.base, token) as socket:
        connection = socket.welcome["connection_id"]
        line = await product.line("api", message="WebSocket connection established", connection_id=connection)
    assert (line["level"], line["tenant_id"], line["user_id"], line["ip"]) == ("INFO", "demo", "ann", "127.0.0.1")
    assert re.fullmatch("[0-9a-f]{32}", line["trace_id"])


async def send(product, body, key=SIGNING_KEY):
    data = msgspec.json.encode(body)
    headers = {"Content-Type": "application/json", "Signature": callrail.sign(data, key)}
    url = f"{product.base}/call-rail/call-complete"
    async with aiohttp.ClientSession() as session, session.post(url, data=data, headers=headers) as response:
        return response.status, response.headers["X-Request-Id"], await response.json(content_type=None)


async def test_one_trace_from_the_webhook_through_its_events_to_the_text(product, token, call_id):
    head = product.head()
    status, trace, told = await send(product, report("call-complete", call_id))
    assert (status, told["status"]) == (200, "processed")
    received = await product.line("api", message="Webhook processed successfully", external_id=str(call_id))
    assert (received["level"], received["provider"], received["status"]) == ("INFO", "callrail", "processed")
    assert received["trace_id"] == trace

    (message,) = await eventually(lambda: texts(product.config.database_url, [call_id]))
    text = await product.line("worker", message="Text message recorded", message_id=message)
    assert text["trace_id"] == trace
    assert (text["tenant_id"], bool(text["job_id"])) == ("demo", True)
    logged = product.sql("select event, trace_id, lead_id::text from events where seq > %s order by seq", head)
    assert {row[1] for row in logged} == {trace}

    lead = logged[0][2]
    for service, name in (("api", "telephony.call.missed"), ("worker", "missed_call.texted")):
        line = await product.line(service, message=f"Event {name} published to 2 channels", trace_id=trace)
        assert (line["level"], line["event"], line["tenant_id"]) == ("INFO", name, "demo")
        assert line["channels"] == ["tenant:demo:events", f"lead:{lead}:timeline"]


async def test_problem_names_the_trace_of_its_log_line(product, call_id):
    status, request_id, problem = await send(product, report("call-complete", call_id), key="another-key")
    assert status == 401
    assert problem["trace_id"] == request_id
    await product.line("api", message="Webhook rejected", trace_id=problem["trace_id"])


async def test_no_line_holds_a_phone_number_or_a_token(product, token, call_id):
    """Also where they are easily quoted: in a URL, in an error about a field, in a header that is refused."""
    number = samples.daytime_phone(datetime.now().astimezone())
    await send(product, report("call-complete", call_id, customer_phone_number=number, duration=number))
    phone = f"phone={number.replace('+', '%2B')}"
    assert (await get(product.base, f"/api/calls?{phone}", token))[0] == 200
    assert (await get(product.base, f"/api/calls?token={token}&{phone}", token))[0] == 400
    assert (await get(product.base, f"/nowhere/{number}", token))[0] == 404
    await eventually(lambda: product.log("api", message="Request answered", route="unmatched", status=404))
    phones = {str(phone).lstrip("+") for (phone,) in product.sql("select phone from leads")}
    phones |= {number.lstrip("+"), samples.TRACKING_NUMBER.lstrip("+")}
    assert phones
    text = "\n".join(line for _, line in product.raw_lines())
    assert [phone for phone in phones if phone in text] == []
    assert re.findall(r"eyJ[\w-]{10,}\.", text) == []
    config = product.config
    for secret in (config.jwt_secret, SIGNING_KEY, config.database_url, config.redis_url, config.ops_users[0].password):
        assert secret not in text
