"""The two ways in which the same messages travel: as WebSocket frames (RFC 6455) and as server-sent events (WHATWG
HTML, "Server-sent events") in chunks of an HTTP/1.1 answer (RFC 9112 7.1). Either is whole by itself, so that several
can be joined and written at once.
"""

from typing import Final, Protocol

from ottoai.realtime.messages import PING_FRAME, Message, encode, frame


class Wire(Protocol):
    """How one client is written to."""

    @property
    def heartbeat(self) -> bytes:
        """What is sent to a client that nothing else is sent to."""

    @property
    def answers(self) -> bool:
        """Whether the client answers a heartbeat."""

    def message(self, message: Message) -> bytes:
        """One message, complete."""

    def event(self, payload: bytes, place: str | None) -> bytes:
        """An encoded event, complete; `place` ("epoch.seq") is where it stands in the log."""


class _WebSocket:
    """Text frames."""

    heartbeat = PING_FRAME
    answers = True

    def message(self, message: Message) -> bytes:
        return frame(encode(message))

    def event(self, payload: bytes, place: str | None) -> bytes:  # noqa: ARG002 - the event says where it stands
        return frame(payload)


class _EventStream:
    """Events named by the message's type; only what stands in the log has an id."""

    heartbeat = b"3\r\n:\n\n\r\n"  # a comment
    answers = False

    def message(self, message: Message) -> bytes:
        return _chunk(b"event: %s\ndata: %s\n\n" % (message.kind.encode(), encode(message)))

    def event(self, payload: bytes, place: str | None) -> bytes:
        if b"\n" in payload or b"\r" in payload:  # in JSON only between values, where a space says the same
            payload = payload.replace(b"\r", b" ").replace(b"\n", b" ")
        head = b"id: %s\n" % place.encode() if place else b""
        return _chunk(b"%sevent: event\ndata: %s\n\n" % (head, payload))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


WEBSOCKET: Final[Wire] = _WebSocket()
EVENT_STREAM: Final[Wire] = _EventStream()
