"""Every message of the protocol `ottoai.v1`, named by direction, and every code that a connection is closed with.

One JSON object each. Timestamps are RFC 3339 in UTC.
"""

import struct
from datetime import datetime
from typing import Final, Literal

import msgspec

from ottoai.domain.events import Event, Severity

PROTOCOL: Final = "ottoai.v1"
MAX_MESSAGE: Final = 32 * 1024  # bytes a client may send in one message


Reaction = Literal["stop", "new token", "back off", "reconnect now"]


class Close(msgspec.Struct, frozen=True):
    """A close code: what has happened, and what the client should do about it."""

    code: int
    name: str
    meaning: str
    client: Reaction


class CloseCode:
    """The codes with which this server closes (RFC 6455 7.4: 4000-4999 are an application's own)."""

    PROTOCOL_ERROR: Final = 1002
    BAD_TEXT: Final = 1007
    TOO_LARGE: Final = 1009
    INTERNAL: Final = 1011
    RESTARTING: Final = 1012
    TRY_LATER: Final = 1013
    BAD_MESSAGES: Final = 4400
    UNAUTHENTICATED: Final = 4401
    FORBIDDEN: Final = 4403
    STALE: Final = 4408
    STUCK: Final = 4409
    KICKED: Final = 4410
    OVER_QUOTA: Final = 4429


# What is not in this table (1006, a link that was lost without a close, among others): back off.
CLOSES: Final = (
    Close(CloseCode.PROTOCOL_ERROR, "protocol_error", "a frame broke RFC 6455", "stop"),
    Close(CloseCode.BAD_TEXT, "bad_text", "a text message was not UTF-8", "stop"),
    Close(CloseCode.TOO_LARGE, "too_large", "a message was larger than the limit", "stop"),
    Close(CloseCode.INTERNAL, "internal", "an error of ours, with its trace id in the log", "back off"),
    Close(CloseCode.RESTARTING, "restarting", "this process stops, or the log was replaced", "reconnect now"),
    Close(CloseCode.TRY_LATER, "try_later", "the database did not answer while the connection opened", "back off"),
    Close(CloseCode.BAD_MESSAGES, "bad_messages", "too many malformed messages", "stop"),
    Close(
        CloseCode.UNAUTHENTICATED,
        "unauthenticated",
        "no valid token came, it has expired or was revoked, or its tenant does not exist",
        "new token",
    ),
    Close(CloseCode.FORBIDDEN, "forbidden", "the page's origin may not connect", "stop"),
    Close(CloseCode.STALE, "stale", "nothing was heard of the client", "reconnect now"),
    Close(CloseCode.STUCK, "stuck", "the client took nothing of what it was sent", "reconnect now"),
    # Who is not to come back is revoked (4401): this is for a connection that does harm, not for its user.
    Close(CloseCode.KICKED, "kicked", "an operator ended this connection", "back off"),
    Close(CloseCode.OVER_QUOTA, "over_quota", "too many connections or messages", "back off"),
)


class ClientIn(msgspec.Struct, frozen=True, tag_field="type"):
    """What a client sends."""


class Auth(ClientIn, frozen=True, tag="auth"):
    """A token: first of all when the connection brought none, or later to go on past the old one's expiry."""

    token: str


class Subscribe(ClientIn, frozen=True, tag="subscribe"):
    """Join a channel; with `since` ("epoch.seq", or a bare number for the current epoch) also what came after it."""

    channel: str
    since: str | int | None = None


class Unsubscribe(ClientIn, frozen=True, tag="unsubscribe"):
    """Leave a channel."""

    channel: str


class Ping(ClientIn, frozen=True, tag="ping"):
    """Ask for a pong."""


Incoming = Auth | Subscribe | Unsubscribe | Ping


class ServerOut(msgspec.Struct, frozen=True, tag_field="type"):
    """What the server sends."""

    @property
    def kind(self) -> str:
        """Its `type`."""
        return str(self.__struct_config__.tag)


class Welcome(ServerOut, frozen=True, tag="welcome"):
    """The connection is authenticated. `seq` is the head of the tenant's log."""

    connection_id: str
    tenant_id: str
    user_id: str
    epoch: int
    seq: int
    heartbeat_seconds: int
    expires_at: datetime
    ts: datetime


class SubscribeResult(ServerOut, frozen=True, tag="subscribe_result"):
    """Whether a channel was joined, and at which number. `recovered` answers `since`: true, all that came after it
    follows (`replayed` events); false, the log cannot tell and the client should load afresh; null, nothing was asked.
    With `retry_after` the refusal is not for good: ask again after so many seconds.
    """

    channel: str
    success: bool
    epoch: int
    seq: int
    recovered: bool | None = None
    replayed: int = 0
    error: str | None = None
    retry_after: int | None = None


class UnsubscribeResult(ServerOut, frozen=True, tag="unsubscribe_result"):
    """Whether a channel was left."""

    channel: str
    success: bool
    epoch: int
    seq: int
    error: str | None = None


class Pong(ServerOut, frozen=True, tag="pong"):
    """Answers a ping."""

    ts: datetime


class Error(ServerOut, frozen=True, tag="error"):
    """A message was not understood or not granted."""

    code: str
    message: str
    retry_after: int | None = None


class AuthExpiring(ServerOut, frozen=True, tag="auth_expiring"):
    """The token runs out soon: send another."""

    expires_at: datetime


class Reconnect(ServerOut, frozen=True, tag="reconnect"):
    """This process is about to stop: it goes on serving, and closes this connection with 1012 after so long. The
    delays differ, so that not everybody comes back at once.
    """

    after_ms: int


class AuthExpired(ServerOut, frozen=True, tag="auth_expired"):
    """The token has run out or was revoked: the stream ends (over SSE only; a WebSocket is closed with 4401)."""


class End(ServerOut, frozen=True, tag="end"):
    """The stream ends, with the code that a WebSocket would be closed with (over SSE only)."""

    code: int
    reason: str


class Envelope(ServerOut, frozen=True, tag="event", omit_defaults=True, kw_only=True):
    """An event. Durable ones have the number they stand at in the tenant's log; transient ones have null."""

    version: str
    event: str
    seq: int | None
    ts: datetime
    severity: Severity
    trace_id: str
    tenant_id: str
    lead_id: str | None = None
    user_id: str | None = None
    data: msgspec.Raw


Outgoing = Welcome | SubscribeResult | UnsubscribeResult | Pong | Error | AuthExpiring | Reconnect | Envelope
StreamOnly = AuthExpired | End
Message = Outgoing | StreamOnly

_decoder = msgspec.json.Decoder(Incoming)
_encoder = msgspec.json.Encoder()

PING_FRAME: Final = b"\x89\x00"


def decode(data: str | bytes) -> Incoming:
    """Read a client's message. Raises msgspec.MsgspecError."""
    try:
        message: Incoming = _decoder.decode(data)
    except (RecursionError, UnicodeError) as error:
        raise msgspec.DecodeError(str(error)) from error
    return message


def encode(message: Message) -> bytes:
    """A message as JSON."""
    return _encoder.encode(message)


def encode_event(event: Event) -> bytes:
    """An event as JSON: encoded once, whoever gets it."""
    return encode(
        Envelope(
            version="1",
            event=event.event,
            seq=event.seq,
            ts=event.ts,
            severity=event.severity,
            trace_id=event.trace_id,
            tenant_id=event.tenant_id,
            lead_id=event.lead_id,
            user_id=event.user_id,
            data=event.data,
        )
    )


def frame(payload: bytes, opcode: Literal[1, 2, 10] = 1) -> bytes:
    """An unmasked, unfragmented frame (RFC 6455 5.2): opcode 1 is text, 2 binary, 10 a pong."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


def unframed(framed: bytes) -> bytes:
    """The payload of such a frame."""
    return framed[{126: 4, 127: 10}.get(framed[1], 2) :]
