"""GET /asyncapi.json: the live protocol as an AsyncAPI 3.0 document, made from the types that speak it. The tables of
docs/PROTOCOL.md and docs/EVENTS.md are made from the same.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from typing import Any, Final, get_args

import msgspec
from aiohttp import web
from msgspec import inspect

from ottoai import __version__
from ottoai.client import BACKOFF
from ottoai.domain import catalogue
from ottoai.domain.catalogue import Dropped, Lead
from ottoai.realtime import messages
from ottoai.realtime.messages import (
    CLOSES,
    PROTOCOL,
    Auth,
    AuthExpired,
    AuthExpiring,
    End,
    Envelope,
    Error,
    Ping,
    Pong,
    Reaction,
    Reconnect,
    ServerOut,
    Subscribe,
    SubscribeResult,
    Unsubscribe,
    UnsubscribeResult,
    Welcome,
)
from ottoai.realtime.wheel import HEARTBEAT
from ottoai.web import auth, jwks, keys
from ottoai.web.limits import SETTINGS, limits

Json = dict[str, Any]
Kind = type[msgspec.Struct]

FROM_CLIENT: Final[tuple[Kind, ...]] = get_args(messages.Incoming)
TO_CLIENT: Final[tuple[Kind, ...]] = get_args(messages.Outgoing)
STREAM_ONLY: Final[tuple[Kind, ...]] = get_args(messages.StreamOnly)
ANSWERS: Final[dict[Kind, Kind]] = {
    Auth: Welcome,
    Subscribe: SubscribeResult,
    Unsubscribe: UnsubscribeResult,
    Ping: Pong,
}
# A stream's client says nothing, so these are never its answers.
STREAMED: Final = tuple(kind for kind in TO_CLIENT if kind not in {UnsubscribeResult, Pong, Error}) + STREAM_ONLY

# When each event happens. Every event of the catalogue must stand here, and nothing else.
WHEN: Final = {
    "telephony.call.received": "The first report about a call came in, whichever of its reports that was.",
    "telephony.call.status": "A later report changed what is known of the call, without completing it.",
    "telephony.call.completed": "A report of the call's end came in for the first time.",
    "telephony.call.missed": "A completed inbound call turned out to be unanswered, or answered by a voicemail.",
    "telephony.sms.received": "A text message of a lead came in.",
    "telephony.sms.sent": "A text message was accepted by its carrier, or staff sent one through the provider.",
    "telephony.sms.status": "A text message waits to be sent, or what became of it has changed.",
    "lead.created": "A number called or texted, or was called or texted, that the tenant had not dealt with before.",
    "lead.updated": "What the lead shows has changed: its name, or the time of its last contact.",
    "missed_call.queued": "A rescue was opened: its first text waits to be sent.",
    "missed_call.updated": "Another time is now set for the rescue's next text, or none is.",
    "missed_call.texted": "A text of the rescue was handed to the carrier.",
    "missed_call.recovered": "The lead replied or was spoken to, or staff wrote to it: the rescue is over.",
    "missed_call.escalated": "Nobody reached the lead within the open hours allowed: staff has a task. Texts go on.",
    "missed_call.opted_out": "The number wants no texts: the rescue is over.",
    "missed_call.expired": "48 hours have passed since the call, or had when it became known: the rescue is over.",
    "task.created": "There is something to do for the tenant's staff.",
    "task.updated": "A task was assigned, completed, opened again or changed.",
    "identity.user.created": "Somebody was first heard to work at the tenant.",
    "identity.user.updated": "A user's name or role has changed, or the user was removed, or has come back.",
    "system.webhook.quarantined": "A genuine delivery could not be used; it is kept with its error.",
    "system.buffer_dropped": "Transient. The log no longer holds events that this connection should have got.",
    "worker.task.failed": "A job was given up after its last attempt.",
}

REACTIONS: Final[dict[Reaction, str]] = {
    "stop": "Do not connect again: the next attempt would end in the same way.",
    "new token": "Get a new token, then reconnect and resume. Without a new one, stop.",
    "back off": "Wait, longer after each failure, then reconnect and resume.",
    "reconnect now": "Reconnect after a moment's jitter and resume. Should that fail, back off.",
}


_NOW: Final = datetime(2026, 11, 23, 21, 20, 18, tzinfo=UTC)
_LEAD: Final = Lead(
    id="7d1f0a52-3d0e-4b63-9a4b-6f1f2f3c9a10",
    phone="+12125550142",
    name="Robin Sample",
    source="Google Ads",
    created_at=_NOW,
    last_contact_at=_NOW,
    version=1,
)

# At least one of every message.
EXAMPLES: Final = (
    Auth(token="<jwt>"),  # noqa: S106 - no token
    Subscribe(channel="tenant:demo:events", since="1795468818.41"),
    Unsubscribe(channel="tenant:demo:events"),
    Ping(),
    Welcome(
        connection_id="0b9f4c36-7a3e-4f3b-8f0e-5a3c1d2e4f60",
        tenant_id="demo",
        user_id="ann",
        epoch=1795468818,
        seq=43,
        heartbeat_seconds=HEARTBEAT,
        expires_at=_NOW.replace(hour=22),
        ts=_NOW,
    ),
    SubscribeResult(channel="tenant:demo:events", success=True, epoch=1795468818, seq=43, recovered=True, replayed=2),
    SubscribeResult(channel="tenant:other:events", success=False, epoch=1795468818, seq=43, error="no such channel"),
    UnsubscribeResult(channel="tenant:demo:events", success=True, epoch=1795468818, seq=43),
    Pong(ts=_NOW),
    Error(code="malformed", message=f"Not a message of {PROTOCOL}: JSON is malformed: invalid character (byte 0)"),
    Error(code="over-quota", message="At most 100 messages a minute; not heeded.", retry_after=1),
    AuthExpiring(expires_at=_NOW),
    Reconnect(after_ms=8125),
    Envelope(
        version="1",
        event="lead.created",
        seq=42,
        ts=_NOW,
        severity="info",
        trace_id="60aebd9e618c8df386edc8a282016b3d",
        tenant_id="demo",
        lead_id=_LEAD.id,
        data=msgspec.Raw(msgspec.json.encode(_LEAD)),
    ),
    Envelope(
        version="1",
        event="system.buffer_dropped",
        seq=None,
        ts=_NOW,
        severity="warning",
        trace_id="",
        tenant_id="demo",
        data=msgspec.Raw(msgspec.json.encode(Dropped(from_seq=17, to_seq=41))),
    ),
    AuthExpired(),
    End(code=messages.CloseCode.RESTARTING, reason="draining"),
)


def sentence(kind: type) -> str:
    """A class's docstring on one line."""
    return " ".join((kind.__doc__ or "").split())


def tag_of(kind: Kind) -> str:
    """The `type` of a message."""
    return str(kind.__struct_config__.tag)


def document(settings: Mapping[str, int]) -> Json:
    """The whole document; `settings` has the values of SETTINGS."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "OttoAI live protocol",
            "version": __version__,
            "description": f"A tenant's events as they happen (`{PROTOCOL}`): in the order of one sequence without "
            "a gap, each once, resumed after a lost connection from the place `epoch.seq`. Fields, messages and events "
            "may be added: ignore what you do not know. docs/PROTOCOL.md says the rest.",
        },
        "defaultContentType": "application/json",
        "channels": {"socket": _socket(), "eventStream": _event_stream()},
        "operations": _operations(),
        "components": {
            "securitySchemes": _security_schemes(),
            "messages": {tag_of(kind): _message(kind) for kind in (*FROM_CLIENT, *TO_CLIENT, *STREAM_ONLY)},
            "schemas": _schemas(),
        },
        "x-close-codes": msgspec.to_builtins(CLOSES),
        "x-reactions": REACTIONS | {"any other close, or none": REACTIONS["back off"]},
        "x-back-off-seconds": BACKOFF,
        "x-limits": msgspec.to_builtins(limits(settings)),
    }


def _socket() -> Json:
    headers = {
        "Authorization": {"type": "string", "description": "`Bearer <jwt>`."},
        "Sec-WebSocket-Protocol": {
            "type": "string",
            "description": f"Optional. If it is sent, `{PROTOCOL}` must be in it.",
        },
        "Origin": {
            "type": "string",
            "description": "Optional; browsers send it. It must be the API's own or one of ALLOWED_ORIGINS.",
        },
    }
    return {
        "address": "/ws",
        "title": "WebSocket",
        "description": "One JSON object in each text message. A client that cannot send headers gives its token in the "
        "first message, `auth`. What is wrong before the upgrade is answered as problem+json (RFC 9457).",
        "messages": _references("components/messages", (*FROM_CLIENT, *TO_CLIENT)),
        "bindings": {
            "ws": {"method": "GET", "headers": {"type": "object", "properties": headers}, "bindingVersion": "0.1.0"}
        },
    }


def _event_stream() -> Json:
    return {
        "address": "/api/events/stream",
        "title": "Event stream",
        "description": "The same messages as server-sent events: `event` is the message's type, `data` the message; "
        "events of the log have their place, `epoch.seq`, as `id`. The header `Last-Event-ID` resumes after a place, "
        "and counts more than `since`.",
        "messages": _references("components/messages", STREAMED),
    }


def _operations() -> Json:
    """Seen from the server, as the standard wants it: it receives what clients say."""
    said = {
        tag_of(kind): {
            "action": "receive",
            "channel": _ref("channels/socket"),
            "summary": sentence(kind),
            "security": [_ref("components/securitySchemes/bearer"), _ref("components/securitySchemes/subprotocol")],
            "messages": [_ref(f"channels/socket/messages/{tag_of(kind)}")],
            "reply": {
                "channel": _ref("channels/socket"),
                "messages": [_ref(f"channels/socket/messages/{tag_of(answer)}") for answer in (ANSWERS[kind], Error)],
            },
        }
        for kind in FROM_CLIENT
    }
    query = {
        "channel": {
            "type": "array",
            "items": {"type": "string"},
            "description": "What to listen to: as often as there are channels. Without it the tenant's.",
        },
        "since": {"type": "string", "description": "The place to go on from: `epoch.seq`, or a number."},
    }
    return said | {
        "tell": {
            "action": "send",
            "channel": _ref("channels/socket"),
            "summary": "All that the server says over a WebSocket, asked or not.",
            "security": [_ref("components/securitySchemes/bearer"), _ref("components/securitySchemes/subprotocol")],
            "messages": list(_references("channels/socket/messages", TO_CLIENT).values()),
        },
        "stream": {
            "action": "send",
            "channel": _ref("channels/eventStream"),
            "summary": "All that an event stream carries: `welcome`, one `subscribe_result` for each channel, events.",
            "security": [_ref("components/securitySchemes/bearer")],
            "messages": list(_references("channels/eventStream/messages", STREAMED).values()),
            "bindings": {
                "http": {
                    "method": "GET",
                    "query": {"type": "object", "properties": query},
                    "bindingVersion": "0.3.0",
                }
            },
        },
    }


def _security_schemes() -> Json:
    return {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": f"A JWT ({jwks.ALGORITHM} or {auth.ALGORITHM}, as configured) with `exp`, `iat`, `sub`, and "
            "one org as `org_id` or `o.id`.",
        },
        "subprotocol": {
            "type": "httpApiKey",
            "in": "header",
            "name": "Sec-WebSocket-Protocol",
            "description": f"For browsers: `{PROTOCOL}, {auth.PROTOCOL_BEARER}<jwt>`. The answer selects `{PROTOCOL}`.",
        },
    }


def _message(kind: Kind) -> Json:
    examples = [
        {"payload": msgspec.json.decode(msgspec.json.encode(each))} for each in EXAMPLES if isinstance(each, kind)
    ]
    payload = "Event" if kind is Envelope else kind.__name__
    return {
        "name": tag_of(kind),
        "title": payload,
        "description": sentence(kind),
        "payload": _ref(f"components/schemas/{payload}"),
        "examples": examples,
    }


def _schemas() -> Json:
    kinds = (*FROM_CLIENT, *TO_CLIENT, *STREAM_ONLY, *dict.fromkeys(catalogue.EVENTS.values()))
    _, made = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return {kind.__name__: _schema(kind, made[kind.__name__]) for kind in kinds} | {"Event": _event()}


def _schema(kind: Kind, made: Json) -> Json:
    """What msgspec says of a struct, and what it leaves out."""
    properties = made["properties"]
    for field in msgspec.structs.fields(kind):
        if _timed(inspect.type_info(field.type)):
            properties[field.encode_name] = _dated(properties[field.encode_name])
    always = issubclass(kind, ServerOut) and not kind.__struct_config__.omit_defaults
    # Here no field is forbidden: a client is to ignore what was added after it was written.
    return {
        "title": made["title"],
        "description": sentence(kind),
        "type": "object",
        "properties": properties,
        "required": list(properties) if always else made["required"],
    }


def _timed(kind: inspect.Type) -> bool:
    match kind:
        case inspect.UnionType(types=types):
            return any(_timed(each) for each in types)
        case inspect.Metadata(type=inner):
            return _timed(inner)
    return isinstance(kind, inspect.DateTimeType)


def _dated(made: Json) -> Json:
    """The schema of a time, which msgspec calls a mere string as it might lack a zone; ours never do."""
    if "anyOf" in made:
        return made | {"anyOf": [_dated(each) for each in made["anyOf"]]}
    return made | {"format": "date-time"} if made["type"] == "string" else made


def _event() -> Json:
    """The envelope, whose `data` depends on the event."""
    known = [
        {
            "title": name,
            "description": WHEN[name],
            "properties": {"event": {"const": name}, "data": _ref(f"components/schemas/{kind.__name__}")},
        }
        for name, kind in catalogue.EVENTS.items()
    ]
    test = {
        "title": f"{catalogue.TEST_PREFIX}*",
        "description": "Made by /ws/test-emit, which is not served in production.",
        "properties": {"event": {"pattern": r"^test\."}, "data": {"type": "object"}},
    }
    return {
        "title": "Event",
        "description": sentence(Envelope),
        "allOf": [_ref(f"components/schemas/{Envelope.__name__}")],
        "oneOf": [*known, test],
    }


def _ref(path: str) -> Json:
    return {"$ref": f"#/{path}"}


def _references(under: str, kinds: Iterable[Kind]) -> Json:
    return {tag_of(kind): _ref(f"{under}/{tag_of(kind)}") for kind in kinds}


@cache
def _encoded(settings: tuple[int, ...]) -> tuple[bytes, str]:
    """(the document, its ETag)."""
    body = msgspec.json.encode(document(dict(zip(SETTINGS, settings, strict=True))))
    return body, sha256(body).hexdigest()[:32]


async def describe(request: web.Request) -> web.Response:
    """The document: the same for everybody, and for as long as the process runs."""
    config = request.app[keys.CONFIG]
    body, etag = _encoded(tuple(getattr(config, name) for name in SETTINGS))
    known = request.if_none_match or ()
    if any(tag.value in {etag, "*"} for tag in known):
        response = web.Response(status=304)
    else:
        response = web.Response(body=body, content_type="application/json")
    response.etag = etag
    response.headers["Cache-Control"] = "public, max-age=300"
    return response
