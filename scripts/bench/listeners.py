"""WebSocket clients that read every event and check that nothing is missing, repeated or out of order."""

import base64
import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from scripts.bench.client import Client

if TYPE_CHECKING:
    from scripts.bench.audience import Audience


class Data(msgspec.Struct, frozen=True):
    """What events bring to be measured by: when they were sent, or which call they are about."""

    sent: str = ""
    external_id: str = ""


class Message(msgspec.Struct, frozen=True):
    """All that a listener wants to know of any message."""

    type: str
    event: str = ""
    seq: int | None = None
    epoch: int = 0
    success: bool = True
    recovered: bool | None = None
    data: Data | None = None


_decode = msgspec.json.Decoder(Message).decode


def upgrade(base: str, path: str, token: str = "") -> bytes:
    """The request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        f"GET {path} HTTP/1.1", f"Host: {urlsplit(base).netloc}", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", f"Authorization: Bearer {token}", "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode()


def client_frame(opcode: int, payload: bytes) -> bytes:
    """A small frame; a mask of zeros is a mask, so that the payload goes as it is."""
    size = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2)
    return bytes((0x80 | opcode,)) + size + bytes(4) + payload


class Listener(Client):
    """A client of one channel. It answers pings, and after a close comes back to where the pool says."""

    pool: "Audience"

    def __init__(self, pool: "Audience", token: str, channel: str, receive_buffer: int = 0) -> None:
        super().__init__(pool, receive_buffer)
        self.token = token
        self.channel = channel
        self.seq: int | None = None  # the last number heard
        self.epoch = 0
        self.ended_at = 0.0
        self.timed = not receive_buffer
        self._rest = bytearray()

    def enter(self, base: str) -> None:
        """Connect, or connect again. Raises OSError."""
        self._rest.clear()
        self.connect(base, [(upgrade(base, "/ws", self.token), b"\r\n\r\n")])

    def opened(self) -> None:
        """Subscribe; after a reconnect to all that came since."""
        subscribe: dict[str, Any] = {"type": "subscribe", "channel": self.channel}
        if self.seq is not None:
            subscribe["since"] = f"{self.epoch}.{self.seq}"
        self.send(client_frame(1, msgspec.json.encode(subscribe)))

    def taken(self, size: int) -> None:
        """Take frames apart."""
        now = time.monotonic()
        buffer = self._rest
        buffer += self.pool.view[:size]
        start, end = 0, len(buffer)
        while end - start >= 2:
            length, begin = buffer[start + 1], start + 2
            if length == 126:
                length, begin = int.from_bytes(buffer[start + 2 : start + 4]), start + 4
            elif length == 127:
                length, begin = int.from_bytes(buffer[start + 2 : start + 10]), start + 10
            if end < begin + length:
                break
            self._frame(buffer[start] & 15, bytes(buffer[begin : begin + length]), now)
            start = begin + length
        del buffer[:start]

    def _frame(self, opcode: int, payload: bytes, now: float) -> None:
        if opcode == 1:
            self._message(_decode(payload), now)
        elif opcode == 9:
            self.pool.counted["pings"] += 1
            self.send(client_frame(10, payload))
        elif opcode == 8:
            self.send(client_frame(8, payload[:2]))
            self.end(str(int.from_bytes(payload[:2])))

    def _message(self, message: Message, now: float) -> None:
        pool = self.pool
        if message.type == "event":
            if message.seq is not None and self.seq is not None:
                self._count(message.seq, self.seq)
            if message.data is not None and self.timed:
                if message.data.sent:
                    pool.latencies.append(now - float(message.data.sent))
                elif message.event == "telephony.call.received":
                    pool.calls.append((message.data.external_id, now))
        elif message.type == "subscribe_result":
            if not message.success or message.recovered is False:
                pool.counted["refused"] += 1
            if self.seq is None:
                self.seq, self.epoch = message.seq, message.epoch
            if self.ended_at:
                pool.returns.append(now - self.ended_at)
            self.joined = True
        else:
            pool.counted[message.type] += 1

    def _count(self, seq: int, last: int) -> None:
        self.pool.counted["events"] += 1
        if seq == last + 1:
            self.seq = seq
        elif seq <= last:
            self.pool.counted["repeated"] += 1
        else:
            self.pool.counted["missing"] += seq - last - 1
            self.seq = seq

    def end(self, why: str) -> None:
        """It was closed, or lost."""
        super().end(why)
        self.pool.ended(self, why)
