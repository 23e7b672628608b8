"""GET /asyncapi.json: the live protocol as an AsyncAPI 3.0 document, made from the types that speak it. The tables of
docs/PROTOCOL.md and docs/EVENTS.md are made from the same.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final, get_args

import msgspec
from aiohttp import web

from ottoai import __version__
from ottoai.client import BACKOFF
from ottoai.domain import catalogue
from ottoai.domain.catalogue import Dropped
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
    Subscribe,
    SubscribeResult,
    Unsubscribe,
    UnsubscribeResult,
    Welcome,
)
from ottoai.realtime.wheel import HEARTBEAT
from ottoai.web import auth, jwks, keys
from ottoai.web.document import respond
from ottoai.web.examples import EVENT, NOW, TRACE
from ottoai.web.limits import SETTINGS, limits
from ottoai.web.schemas import Json, Kind, answers, ref, requests, schema_ref, sentence

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
    "analytics.daily_recap.ready": "It is 18:00 at the tenant: how its day was. Once a day, late rather than never.",
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
        expires_at=NOW.replace(hour=22),
        ts=NOW,
    ),
    SubscribeResult(channel="tenant:demo:events", success=True, epoch=1795468818, seq=43, recovered=True, replayed=2),
    SubscribeResult(channel="tenant:other:events", success=False, epoch=1795468818, seq=43, error="no such channel"),
    UnsubscribeResult(channel="tenant:demo:events", success=True, epoch=1795468818, seq=43),
    Pong(ts=NOW),
    Error(code="malformed", message=f"Not a message of {PROTOCOL}: JSON is malformed: invalid character (byte 0)"),
    Error(code="over-quota", message="At most 100 messages a minute; not heeded.", retry_after=1),
    AuthExpiring(expires_at=NOW),
    Reconnect(after_ms=8125),
    EVENT,
    Envelope(
        version="1",
        event="system.buffer_dropped",
        seq=None,
        ts=NOW,
        severity="warning",
        trace_id=TRACE,
        tenant_id="demo",
        data=msgspec.Raw(msgspec.json.encode(Dropped(from_seq=17, to_seq=41))),
    ),
    AuthExpired(),
    End(code=messages.CloseCode.RESTARTING, reason="draining"),
)


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
            "channel": ref("channels/socket"),
            "summary": sentence(kind),
            "security": [ref("components/securitySchemes/bearer"), ref("components/securitySchemes/subprotocol")],
            "messages": [ref(f"channels/socket/messages/{tag_of(kind)}")],
            "reply": {
                "channel": ref("channels/socket"),
                "messages": [ref(f"channels/socket/messages/{tag_of(answer)}") for answer in (ANSWERS[kind], Error)],
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
            "channel": ref("channels/socket"),
            "summary": "All that the server says over a WebSocket, asked or not.",
            "security": [ref("components/securitySchemes/bearer"), ref("components/securitySchemes/subprotocol")],
            "messages": list(_references("channels/socket/messages", TO_CLIENT).values()),
        },
        "stream": {
            "action": "send",
            "channel": ref("channels/eventStream"),
            "summary": "All that an event stream carries: `welcome`, one `subscribe_result` for each channel, events.",
            "security": [ref("components/securitySchemes/bearer")],
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
        "payload": schema_ref(payload),
        "examples": examples,
    }


def _schemas() -> Json:
    said = answers((*TO_CLIENT, *STREAM_ONLY, *dict.fromkeys(catalogue.EVENTS.values())))
    return requests(FROM_CLIENT) | said | {"Event": event_schema()}


def event_schema() -> Json:
    """The envelope, whose `data` depends on the event."""
    known = [
        {
            "title": name,
            "description": WHEN[name],
            "properties": {"event": {"const": name}, "data": schema_ref(kind.__name__)},
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
        "allOf": [schema_ref(Envelope.__name__)],
        "oneOf": [*known, test],
    }


def _references(under: str, kinds: Iterable[Kind]) -> Json:
    return {tag_of(kind): ref(f"{under}/{tag_of(kind)}") for kind in kinds}


@cache
def _encoded(settings: tuple[int, ...]) -> bytes:
    return msgspec.json.encode(document(dict(zip(SETTINGS, settings, strict=True))))


async def get_asyncapi(request: web.Request) -> web.Response:
    """The live protocol as an AsyncAPI document."""
    config = request.app[keys.CONFIG]
    return respond(request, _encoded(tuple(getattr(config, name) for name in SETTINGS)))
