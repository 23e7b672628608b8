"""Sockets whose clients break the rules of RFC 6455, and readers who take nothing: what is refused, and what ends."""

import socket
import struct

from tests.helpers import until
from tests.security.conftest import request

TEXT, PING, CLOSE, MORE = 0x81, 0x89, 0x88, 0x01
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
OFFER = ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Extensions: permessage-deflate")


def frame(first: int, data: bytes = b"", length: int | None = None) -> bytes:
    """A client's frame; `length` is what it says of itself."""
    size = len(data) if length is None else length
    head = struct.pack("!BB", first, 0x80 | size) if size < 126 else struct.pack("!BBQ", first, 0xFF, size)
    return head + bytes(4) + data


HOSTILE = (
    (1002, frame(TEXT | 0x40, b"{}")),  # compressed, which was offered and not agreed upon
    (1002, frame(PING, b"x" * 126)),
    (1002, frame(PING & 0x7F, b"x")),  # a control frame in parts
    (1002, frame(CLOSE, b"x")),
    (1002, frame(0x80, b"the end of nothing")),
    (1002, frame(MORE, b"{") + frame(TEXT, b"}")),
    (1007, frame(TEXT, b"\xff")),
    (1009, frame(TEXT, b"", length=1 << 62)),  # refused unread
    (1009, frame(MORE, b"x") + frame(0, b"x") * 40_000),
)


async def test_a_frame_that_breaks_the_rules_ends_its_socket(say, make_token):
    """`say` returns when the server has hung up."""
    for code, frames in HOSTILE:
        for sender in ((f"Authorization: Bearer {make_token()}",), ()):
            opening = request("GET /ws", *UPGRADE, *OFFER, *sender, close=False)
            head, _, answer = (await say(opening + frames)).partition(b"\r\n\r\n")
            assert b" 101 " in head, frames[:20]
            assert b"Extensions" not in head
            if answer:  # a reset may overtake it, when more had been sent than was read
                assert struct.pack("!H", code) in answer[-4:], (code, frames[:20])


async def test_who_takes_no_answers_is_not_waited_for(runner, port):
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", port))
        client.sendall(request("GET /openapi.json", close=False) * 100)  # more than the kernel's buffers take
        await until(lambda: runner.server.connections)
        await until(lambda: not runner.server.connections, within=30)
