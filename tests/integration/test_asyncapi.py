"""GET /asyncapi.json: it is sound, complete, and what is really said agrees with it."""

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any, get_args

import msgspec
import pytest

from ottoai import __version__, samples
from ottoai.client import connect
from ottoai.config import Config
from ottoai.domain import catalogue
from ottoai.realtime import messages, wheel
from ottoai.realtime.messages import CLOSES, CloseCode, Envelope
from ottoai.web import asyncapi, keys
from ottoai.web.limits import SETTINGS
from ottoai.web.schemas import sentence
from scripts import generate
from tests.conftest import make_config
from tests.helpers import deliver, get, report, until
from tests.integration.test_realtime import CHANNEL, emit
from tests.streams import open_stream

Json = dict[str, Any]
INCOMING, OUTGOING = get_args(messages.Incoming), get_args(messages.Outgoing)
EVERY = {str(kind.__struct_config__.tag): kind for kind in (*INCOMING, *OUTGOING, *get_args(messages.StreamOnly))}

# The keys that AsyncAPI 3.0 knows in each object; those with ! must be there.
KNOWN = {
    "root": "asyncapi! info! id servers defaultContentType channels operations components",
    "info": "title! version! description termsOfService contact license tags externalDocs",
    "channel": "address messages title summary description servers parameters tags externalDocs bindings",
    "operation": "action! channel! title summary description security tags externalDocs bindings traits messages reply",
    "reply": "address channel messages",
    "components": "schemas servers channels operations messages securitySchemes serverVariables parameters"
    " correlationIds replies replyAddresses externalDocs tags operationTraits messageTraits serverBindings"
    " channelBindings operationBindings messageBindings",
    "message": "headers payload correlationId contentType name title summary description tags externalDocs bindings"
    " examples traits",
    "example": "name summary headers payload",
    "ws": "method query headers bindingVersion",
    "http": "method query bindingVersion",
}
# What JSON Schema's draft 7 says without asking for anything.
SILENT = {"title", "description", "default"}


@pytest.fixture
def document() -> Json:
    return as_json(asyncapi.document(defaults()))


def defaults() -> dict[str, int]:
    config = make_config("postgresql://not.used/here", "redis://not.used")
    return {name: getattr(config, name) for name in SETTINGS}


def as_json(document: Json) -> Json:
    return msgspec.json.decode(msgspec.json.encode(document))


def check_keys(kind: str, found: Json) -> None:
    known = KNOWN[kind].split()
    names = {name.rstrip("!") for name in known}
    assert {name for name in found if not name.startswith("x-")} <= names, kind
    assert {name.rstrip("!") for name in known if name.endswith("!")} <= set(found), kind


def resolve(document: Json, ref: str) -> Json:
    found: Any = document
    assert ref.startswith("#/")
    for part in ref.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return resolve(document, found["$ref"]) if "$ref" in found else found


def within(found: object) -> Iterator[object]:
    """Everything in a document."""
    yield found
    for each in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from within(each)


class Mismatch(AssertionError):
    """A value is not what its schema says."""


def validate(document: Json, schema: Json, value: Any, at: str = "$") -> None:
    """JSON Schema, as far as the document uses it: a keyword unknown here is an error."""
    for keyword, wanted in schema.items():
        if keyword in SILENT:
            continue
        if not KEYWORDS[keyword](document, wanted, value, at):
            raise Mismatch(f"{at}: {value!r} is not {keyword} {wanted!r}")


def fits(document: Json, schema: Json, value: Any, at: str) -> bool:
    try:
        validate(document, schema, value, at)
    except Mismatch:
        return False
    return True


def each_property(document: Json, wanted: Json, value: Any, at: str) -> bool:
    for name in wanted.keys() & value.keys():
        validate(document, wanted[name], value[name], f"{at}.{name}")
    return True


def all_of(document: Json, wanted: list[Json], value: Any, at: str) -> bool:
    for each in wanted:
        validate(document, each, value, at)
    return True


def reference(document: Json, wanted: str, value: Any, at: str) -> bool:
    validate(document, resolve(document, wanted), value, at)
    return True


TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
KEYWORDS = {
    "type": lambda d, wanted, value, at: (
        isinstance(value, TYPES[wanted]) and (wanted != "integer" or not isinstance(value, bool))
    ),
    "enum": lambda d, wanted, value, at: value in wanted,
    "const": lambda d, wanted, value, at: value == wanted,
    "pattern": lambda d, wanted, value, at: re.search(wanted, value),
    "format": lambda d, wanted, value, at: wanted == "date-time" and datetime.fromisoformat(value).tzinfo,
    "required": lambda d, wanted, value, at: set(wanted) <= set(value),
    "properties": each_property,
    "$ref": reference,
    "allOf": all_of,
    "anyOf": lambda d, wanted, value, at: any(fits(d, each, value, at) for each in wanted),
    "oneOf": lambda d, wanted, value, at: sum(fits(d, each, value, at) for each in wanted) == 1,
}


def check(document: Json, message: Json) -> Json:
    """One message, as it was said, against what the document says of it; the message."""
    schema = document["components"]["messages"][message["type"]]["payload"]
    validate(document, schema, message)
    named = resolve(document, schema["$ref"])
    base = resolve(document, named["allOf"][0]["$ref"]) if "allOf" in named else named
    assert set(message) <= set(base["properties"]), "it says more than the document knows"
    return message


# The document by itself


def test_it_is_built_as_the_standard_wants(document):
    check_keys("root", document)
    assert document["asyncapi"] == "3.0.0"
    check_keys("info", document["info"])
    assert document["info"]["version"] == __version__
    check_keys("components", document["components"])
    for channel in document["channels"].values():
        check_keys("channel", channel)
        for name, message in channel["messages"].items():
            assert message == {"$ref": f"#/components/messages/{name}"}
    assert {channel["address"] for channel in document["channels"].values()} == {"/ws", "/api/events/stream"}
    socket = document["channels"]["socket"]["bindings"]["ws"]
    check_keys("ws", socket)
    assert socket["method"] == "GET"
    for message in document["components"]["messages"].values():
        check_keys("message", message)
        for example in message["examples"]:
            check_keys("example", example)
    for group in ("messages", "schemas", "securitySchemes"):
        assert all(re.fullmatch(r"[\w.-]+", name) for name in document["components"][group])
    kinds = {name: scheme["type"] for name, scheme in document["components"]["securitySchemes"].items()}
    assert kinds == {"bearer": "http", "subprotocol": "httpApiKey"}


def test_operations_use_their_channels_messages(document):
    for operation in document["operations"].values():
        check_keys("operation", operation)
        assert operation["action"] in {"send", "receive"}
        channel = operation["channel"]["$ref"]
        said = [*operation["messages"], *operation.get("reply", {}).get("messages", [])]
        assert said
        assert all(message["$ref"].startswith(f"{channel}/messages/") for message in said)
        for scheme in operation["security"]:
            assert scheme["$ref"].startswith("#/components/securitySchemes/")
        if "reply" in operation:
            check_keys("reply", operation["reply"])
        if "bindings" in operation:
            check_keys("http", operation["bindings"]["http"])
    received = {name for name, operation in document["operations"].items() if operation["action"] == "receive"}
    assert received == {asyncapi.tag_of(kind) for kind in INCOMING}


def test_every_reference_leads_somewhere(document):
    refs = [found["$ref"] for found in within(document) if isinstance(found, dict) and "$ref" in found]
    assert len(refs) > 50
    for ref in refs:
        resolve(document, ref)


def test_it_has_the_messages_of_the_types_and_no_others(document):
    described = document["components"]["messages"]
    assert set(described) == set(EVERY)
    for name, message in described.items():
        assert message["name"] == name
        assert message["description"] == sentence(EVERY[name])
        schema = resolve(document, message["payload"]["$ref"])
        if name == "event":
            schema = resolve(document, schema["allOf"][0]["$ref"])
        fields = {field.encode_name for field in msgspec.structs.fields(EVERY[name])}
        assert set(schema["properties"]) == {"type", *fields}
        assert schema["properties"]["type"] == {"enum": [name]}
    assert set(document["channels"]["socket"]["messages"]) == {asyncapi.tag_of(kind) for kind in INCOMING + OUTGOING}


def test_it_has_every_event_with_its_data(document):
    variants = document["components"]["schemas"]["Event"]["oneOf"]
    described = {each["properties"]["event"].get("const"): each["properties"]["data"] for each in variants}
    assert described.pop(None) == {"type": "object"}  # test.*
    wanted = {name: {"$ref": f"#/components/schemas/{kind.__name__}"} for name, kind in catalogue.EVENTS.items()}
    assert described == wanted
    assert catalogue.EVENTS.keys() == asyncapi.WHEN.keys()


def test_every_message_has_examples_that_are_valid(document):
    for name, message in document["components"]["messages"].items():
        assert message["examples"]
        for example in message["examples"]:
            assert check(document, example["payload"])["type"] == name
            struct = msgspec.json.decode(msgspec.json.encode(example["payload"]), type=EVERY[name])
            if isinstance(struct, Envelope):
                msgspec.json.decode(struct.data, type=catalogue.EVENTS[struct.event])


@pytest.mark.parametrize(
    "message",
    [
        {"type": "pong"},
        {"type": "pong", "ts": "yesterday"},
        {"type": "pong", "ts": "2026-11-23T21:20:18"},
        {"type": "subscribe", "channel": 7},
        {"type": "subscribe", "channel": "tenant:demo:events", "since": True},
        {"type": "ping", "more": 1},
    ],
)
def test_the_check_of_these_tests_finds_what_is_wrong(document, message):
    with pytest.raises((AssertionError, ValueError)):
        check(document, message)


def test_an_event_with_the_data_of_another_is_wrong(document):
    [lead, dropped] = [each["payload"] for each in document["components"]["messages"]["event"]["examples"]]
    for changed in ({"event": "telephony.call.received"}, {"event": "nonsense"}, {"data": dropped["data"]}):
        with pytest.raises(Mismatch):
            check(document, lead | changed)
    check(document, lead | {"event": "test.anything", "data": {}})


def test_it_has_the_close_codes_and_limits(document):
    assert [msgspec.convert(each, messages.Close) for each in document["x-close-codes"]] == list(CLOSES)
    own = {value for name, value in vars(CloseCode).items() if name.isupper()}
    assert {close.code for close in CLOSES} == own
    assert {close.client for close in CLOSES} <= set(document["x-reactions"])
    assert all(a < b for a, b in pairwise(document["x-back-off-seconds"]))
    limits = document["x-limits"]
    assert limits["message"] == {"value": 32768, "meaning": "Message from a client", "unit": "bytes"}
    assert {limit["setting"]: limit["value"] for limit in limits.values() if "setting" in limit} == {
        "WS_CONNECTIONS_PER_USER": 20,
        "WS_CONNECTIONS_PER_TENANT": 2000,
        "WS_SUBSCRIPTIONS_PER_CONNECTION": 100,
        "WS_MESSAGES_PER_MINUTE": 100,
        "EVENT_RETENTION_DAYS": 30,
    }
    assert {limit.get("unit", "") for limit in limits.values()} == {"", "s", "bytes"}


def test_the_protocols_page_says_the_same(repository):
    page = generate.current((repository / "docs/PROTOCOL.md").read_text())
    for name in EVERY:
        assert page.count(f"#### `{name}`\n") == 1
    for close in CLOSES:
        assert f"| {close.code} | `{close.name}` | {close.meaning} | **" in page
    stale = page.replace("| 4429 |", "| 4428 |")
    assert stale != page == generate.current(stale), "what is not from the code is found, and mended"


# As it is served


async def test_it_is_served_with_an_etag(base, config):
    status, headers, document = await get(base, "/asyncapi.json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert headers["Cache-Control"] == "public, max-age=300"
    assert document == as_json(asyncapi.document({name: getattr(config, name) for name in SETTINGS}))
    etag = headers["ETag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        status, headers, body = await get(base, "/asyncapi.json", **{"If-None-Match": known})
        assert (status, body, headers["ETag"], headers["Cache-Control"]) == (304, None, etag, "public, max-age=300")
    for unknown in ('"other"', "nonsense"):
        assert (await get(base, "/asyncapi.json", **{"If-None-Match": unknown}))[0] == 200


async def test_it_tells_nothing_of_the_deployment_but_its_limits(base, config: Config):
    _, _, document = await get(base, "/asyncapi.json")
    text = msgspec.json.encode(document).decode()
    assert "servers" not in document
    for secret in (config.jwt_secret, config.database_url, config.redis_url, base.removeprefix("http://"), "127.0.0.1"):
        assert secret not in text


# What is really said


async def test_what_a_websocket_says_agrees(app, base, make_token, document, monkeypatch):
    heard: list[Json] = []
    async with connect(base) as socket:

        async def say(**message: Any) -> None:
            check(document, message)
            await socket.send(**message)

        async def hear(*types: str) -> None:
            """Up to the last of these types."""
            wanted = list(types)
            while wanted:
                heard.append(check(document, await socket.receive()))
                if heard[-1]["type"] == wanted[0]:
                    wanted.pop(0)

        await say(type="auth", token=make_token())
        await hear("welcome")
        await say(type="subscribe", channel=CHANNEL, since=0)
        await say(type="subscribe", channel="tenant:other:events", since="soon")
        await say(type="subscribe", channel="user:ann:tasks")
        await say(type="unsubscribe", channel="user:ann:tasks")
        await say(type="unsubscribe", channel="user:ann:tasks")
        await say(type="ping")
        await hear("pong")
        await socket.send(type="nonsense")
        await say(type="auth", token="forged")
        await hear("error", "error")
        app[keys.HUB].wheel.tick(0.0, app[keys.HUB].wheel._expiries[0][0] + 1)
        await hear("auth_expiring")
        await say(type="auth", token=make_token())
        await hear("welcome")
        call = samples.new_call_id()
        for kind in ("pre-call", "call-complete"):
            assert (await deliver(base, kind, report(kind, call)))[0] == 200
        await emit(base, "test.last", user_id="ann")
        await emit(base, "test.transient", transient="1")
        while heard[-1].get("event") != "test.transient":
            heard.append(check(document, await socket.receive()))
        await app[keys.SOCKETS].drain()
        await hear("reconnect")
    assert {message["type"] for message in heard} == {asyncapi.tag_of(kind) for kind in OUTGOING}
    said = {message["event"] for message in heard if message["type"] == "event"}
    assert {"telephony.call.received", "lead.created", "telephony.call.completed", "test.last"} <= said


@pytest.mark.parametrize("last", ["end", "auth_expired"])
async def test_what_an_event_stream_says_agrees(app, base, make_token, document, last):
    heard: list[Json] = []
    async with open_stream(base, make_token(), CHANNEL, "user:ann:tasks", since="0") as stream:
        hub = app[keys.HUB]
        await until(lambda: hub.connections)
        expires = hub.wheel._expiries[0][0] + wheel.AUTH_WARNING
        hub.wheel.tick(0.0, expires)
        assert (await deliver(base, "pre-call", report("pre-call")))[0] == 200
        while len([message for message in heard if message["type"] == "event"]) < 2:
            heard.append(check(document, await stream.message()))
        if last == "end":
            await app[keys.SOCKETS].drain()
        else:
            hub.wheel.tick(0.0, expires + wheel.AUTH_GRACE)
        while message := await stream.message():
            heard.append(check(document, message))
    assert heard[-1]["type"] == last
    possible = set(document["channels"]["eventStream"]["messages"])
    unheard = {"auth_expired"} if last == "end" else {"end", "reconnect"}
    assert {message["type"] for message in heard} == possible - unheard
