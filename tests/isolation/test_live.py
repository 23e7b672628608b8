"""While tenant B is at work, tenant A hears nothing of it: over WebSocket, event stream and long poll alike."""

import asyncio
import json

import aiohttp

from ottoai.client import connect
from tests.helpers import deliver, get, report
from tests.isolation.canaries import A, B, canaries_of, found_in
from tests.isolation.drives import bad_tokens, foreign_channels
from tests.isolation.recording import recorded
from tests.streams import open_stream

END = "test.end"
OWN = f"tenant:{A.id}:events"


async def emit(base: str, tenant: str, event: str, **query: str) -> None:
    words = "".join(f"&{name}={value}" for name, value in query.items())
    status, _, answer = await get(
        base, f"/ws/test-emit?event={event}&tenant_id={tenant}{words}", **{"X-Dev-Key": "dev"}
    )
    assert status == 200, answer


async def b_at_work(base: str) -> None:
    """Everything that makes events at B, durable and transient, on all its channels."""
    for number, kind in enumerate(("pre-call", "call-complete")):
        body = report(
            kind, 8100 + number, company_id=int(B.company), company_resource_id=None, tracking_phone_number=B.number,
            customer_phone_number=B.phone, customer_name=f"{B.word} calling",
        )  # fmt: skip
        assert (await deliver(base, kind, body, tenant=B.id))[0] == 200
    for transient in ("0", "1"):
        await emit(base, B.id, f"test.{B.word}", lead_id=B.lead, user_id=B.user, transient=transient)


async def test_a_hears_nothing_of_b(two, base, token_a, token_b, database_url):
    heard: list[str] = []
    with recorded() as lines:
        async with (
            connect(base, token_a) as socket,
            connect(base, token_b) as witness,
            open_stream(base, token_a, OWN, since="0") as stream,
        ):
            for name in foreign_channels():
                for since in (None, 0, "1.0"):
                    answer = await socket.subscribe(name, since)
                    assert answer.pop("channel") == name
                    assert (answer["success"], answer["error"]) == (False, "no such channel")
                    heard.append(json.dumps(answer))
            assert (await socket.subscribe(OWN, 0))["success"]
            assert (await witness.subscribe(f"tenant:{B.id}:events"))["success"]
            where = (await get(base, "/api/events", token_a))[2]["next_cursor"]
            poll = asyncio.create_task(get(base, f"/api/events?since={where}&wait=20", token_a))
            await b_at_work(base)
            assert f"{B.word} calling" in json.dumps(await witness.event()), "B itself hears it"
            await emit(base, A.id, END)
            heard += [json.dumps(event) for event in await until_end(socket.event)]
            heard += [json.dumps(event) for event in await until_end(stream.event)]
            heard.append(json.dumps((await poll)[2]))
            assert END in heard[-1]
        canaries = canaries_of(database_url, B, A)
    assert [text for text in heard if found_in(text, canaries)] == []
    assert [line for line in lines if line.get("tenant_id") == A.id and found_in(json.dumps(line), canaries)] == []
    assert any(line.get("tenant_id") == B.id for line in lines)


async def until_end(receive):
    events = []
    while not events or events[-1]["event"] != END:
        events.append(await receive())
    return events


async def test_a_socket_is_whose_its_token_is(two, base, token_a, token_b):
    """No token that claims too much opens one, and a running one is not handed to another tenant."""
    for bad in bad_tokens(token_a)[:4]:
        try:
            async with connect(base, bad):
                raise AssertionError("let in")
        except aiohttp.WSServerHandshakeError as error:
            assert error.status == 401
    async with connect(base, bad_tokens(token_a)[4]) as socket:
        assert socket.welcome["tenant_id"] == A.id
        await socket.send(type="auth", token=token_b)
        assert (await socket.answer("error"))["code"] == "forbidden"
        assert (await socket.subscribe(f"tenant:{B.id}:events"))["success"] is False
