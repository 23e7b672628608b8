"""Clients that keep the protocol's rules by themselves and believe nothing: each event must be the next one, must be
the same for everybody, and every `recovered` must be right. They speak WebSocket, event stream and long poll, some
of them now this and now that.
"""

import asyncio
import base64
import os
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field

import msgspec

from ottoai.realtime.messages import CLOSES
from tests.chaos.links import HOST
from tests.chaos.truth import Log, Row, identity_of

BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0)  # as docs/PROTOCOL.md says, each with jitter
REACTIONS = {close.code: close.client for close in CLOSES}
REMEMBERED = 30  # things that a client saw last
CONNECT_WITHIN = 5.0
JOIN_WITHIN = 12.0
PING_AFTER = 4.0  # seconds of silence; after as many more the link is taken for dead
STREAM_SILENCE = 10.0  # an event stream cannot ask; who hears nothing for so long comes back
POLL_WAIT = 5
POLL_SLACK = 5.0
OLD_EPOCH = 15.0  # seconds in which every process must have noticed that the epoch changed
TICK = 0.5


class Data(msgspec.Struct, frozen=True):
    n: str = ""
    external_id: str = ""
    from_seq: int = 0
    to_seq: int = 0


class Message(msgspec.Struct, frozen=True):
    """All that a client wants to know of any message."""

    type: str
    tenant_id: str = ""
    event: str = ""
    seq: int | None = None
    lead_id: str | None = None
    user_id: str | None = None
    data: Data = Data()
    channel: str = ""
    success: bool = True
    epoch: int = 0
    recovered: bool | None = None
    replayed: int = 0
    error: str | None = None
    retry_after: int | None = None
    code: int | str = 0


class Page(msgspec.Struct, frozen=True):
    """The answer to a poll."""

    items: list[Message]
    next_cursor: str
    epoch: int
    seq: int
    recovered: bool | None


decode_message = msgspec.json.Decoder(Message).decode
decode_page = msgspec.json.Decoder(Page).decode


class Replayed(msgspec.Struct, frozen=True):
    """What a server said would be replayed, to be compared with the log later."""

    client: "Client"
    place: "Place"
    epoch: int
    after: int
    until: int
    count: int
    deleted_to: int


@dataclass
class World:
    """What all clients share."""

    port: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)  # the first broken promise ends the run
    replays: list[Replayed] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)  # why connections ended
    rng: random.Random = field(default_factory=random.Random)


class Place:
    """Where a client is in a channel. `seq`: all up to there was received, or skipped as the server said."""

    __slots__ = ("ahead", "asked", "channel", "epoch", "joined", "kind", "last", "segments", "seq", "start", "subject")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.kind, self.subject = channel.split(":")[:2]
        self.epoch = 0
        self.seq: int | None = None
        # On the present connection: what was asked for, whether it was joined, after which number, and what came last.
        self.asked: tuple[int, int] | None = None
        self.joined = False
        self.start = self.last = 0
        # What came by way of another channel before this one was joined may come once more on the next connection.
        self.ahead: set[int] = set()
        self.segments: list[tuple[int, int, int | None]] = []  # (epoch, after, until; None: to the head)

    @property
    def since(self) -> str | None:
        return None if self.seq is None else f"{self.epoch}.{self.seq}"

    def carries(self, lead: str | None, user: str | None) -> bool:
        if self.kind == "tenant":
            return True
        return self.subject == (lead if self.kind == "lead" else user)

    def wants(self, row: Row) -> bool:
        return self.carries(row.lead, row.user)

    def begin(self, epoch: int, seq: int) -> None:
        """Start anew; what lies between is not expected."""
        if self.segments:
            old, after, _ = self.segments[-1]
            self.segments[-1] = (old, after, self.seq)
        self.segments.append((epoch, seq, None))
        if epoch != self.epoch:
            self.ahead.clear()
        self.epoch = epoch
        self.seq = seq


class Client:
    """One user's screen. `kinds`: the transports it uses, one of them at a time."""

    def __init__(self, world: World, log: Log, user: str, token: str, channels: list[str], kinds: list[type]) -> None:
        self.world = world
        self.log = log
        self.user = user
        self.token = token
        self.places = [Place(channel) for channel in channels]
        self.kinds = kinds
        self.wire: Wire | None = None
        self.history: deque[tuple[float, str, object]] = deque(maxlen=REMEMBERED)
        self.keeps = world.rng.random() < 0.5  # one connection for many polls
        self.stopped = False
        self._attempt = 0
        # With the tenant's channel alone, order says it all; else every number is kept.
        self._tracks = len(channels) > 1 or self.places[0].kind != "tenant"
        self._numbers: dict[int, set[int]] = {}
        self._transient: deque[str] = deque(maxlen=100)
        self._dropped: list[tuple[int, int, int]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"{self.log.tenant}/{self.user} on {', '.join(place.channel for place in self.places)}"

    # Connecting

    def connect(self) -> None:
        if self.stopped:
            return
        self.wire = self.world.rng.choice(self.kinds)(self)
        self._transient.clear()  # they may come again, by way of another process
        for place in self.places:
            place.joined = False
            place.asked = None if place.seq is None else (place.epoch, place.seq)
        self.note("connect", f"{self.wire.kind} {[place.since for place in self.places]}")
        self.world.counted["connects"] += 1
        self._open(self.wire)

    def go_on(self) -> None:
        """Ask again where the last answer ended, over another connection."""
        self.wire = Poll(self)
        self._open(self.wire)

    def _open(self, wire: "Wire") -> None:
        task = asyncio.get_running_loop().create_task(self._connect(wire))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, wire: "Wire") -> None:
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                await asyncio.get_running_loop().create_connection(lambda: wire, HOST, self.world.port)
        except (OSError, TimeoutError) as error:
            wire.drop(f"no connection ({type(error).__name__})")

    def lost(self, wire: "Wire", why: str, *, at_once: bool) -> None:
        """The connection has ended, or was given up: back off, and come back."""
        if wire is not self.wire:
            return
        self.wire = None
        self.note("lost", why)
        self.world.reasons[f"{wire.kind}: {why}"] += 1
        pause = 0.0
        if not at_once:
            pause = BACKOFF[min(self._attempt, len(BACKOFF) - 1)] * self.world.rng.uniform(0.5, 1.5)
            self._attempt += 1
        asyncio.get_running_loop().call_later(pause, self.connect)

    async def stop(self) -> None:
        self.stopped = True
        if self.wire is not None:
            self.wire.drop("stopped")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def ready(self) -> bool:
        """Whether it is where it wants to be."""
        return self.wire is not None and all(place.joined for place in self.places)

    def note(self, what: str, detail: object) -> None:
        self.history.append((time.time(), what, detail))

    def breaks(self, what: str) -> None:
        """A promise was broken."""
        seen = "\n".join(f"    {time.strftime('%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03} {kind}: {detail}"
                         for at, kind, detail in self.history)  # fmt: skip
        self.world.broken.append(f"{self}\n  {what}\n  what it saw last:\n{seen}")

    # Hearing

    def joined(
        self, place: Place, epoch: int, seq: int, recovered: bool | None, replayed: int | None, *, polled: bool = False
    ) -> None:
        """The server says from where on a channel is heard."""
        self.note("joined", f"{place.channel} at {epoch}.{seq}, recovered {recovered}, replayed {replayed}")
        log, counted = self.log, self.world.counted
        if place.joined and not polled:
            self.breaks(f"{place.channel} was joined twice")
        self._check_epoch(epoch)
        if place.asked is None:
            if recovered is not None or replayed:
                self.breaks("nothing was asked, but something was recovered")
            counted["recovered null"] += not polled
            place.begin(epoch, seq)
        else:
            old_epoch, after = place.asked
            if recovered is None:
                self.breaks("whether it was recovered is not said")
            if recovered and epoch != old_epoch:
                self.breaks(f"recovered from {old_epoch}.{after}, in epoch {epoch}")
            # Told in an epoch that has just ended: the log was cut back, and a process may not know its new name yet.
            ended = log.changing or epoch != log.epoch
            if recovered is False and epoch == old_epoch and log.deleted_to <= after and not ended:
                self.breaks(f"not recovered from {old_epoch}.{after}, which the log has")
            if recovered and seq < after:
                self.breaks(f"recovered from {after}, at {seq}")
            counted[f"recovered {str(recovered).lower()}"] += not polled or recovered is False
            if recovered is False:
                if replayed:
                    self.breaks("not recovered, but replayed")
                place.begin(epoch, seq)
            elif replayed is not None:
                self._check_replayed(place, epoch, after, seq, replayed)
        place.joined = True
        place.start = place.last = place.seq or 0
        if all(one.joined for one in self.places):
            self._attempt = 0

    def _check_epoch(self, epoch: int) -> None:
        log = self.log
        if epoch == log.epoch or not log.epoch or (log.changing and epoch == log.epoch + 1):
            return
        if epoch not in log.epochs or time.monotonic() - log.changed_at > OLD_EPOCH:
            self.breaks(f"epoch {epoch} instead of {log.epoch}")
        self.world.counted["in an old epoch"] += 1

    def _check_replayed(self, place: Place, epoch: int, after: int, seq: int, replayed: int) -> None:
        self.world.counted["replayed"] += replayed
        if place.kind == "tenant":
            if replayed != seq - after:
                self.breaks(f"replayed {replayed} from {after} to {seq}")
        else:
            log = self.log
            self.world.replays.append(Replayed(self, place, epoch, after, seq, replayed, log.deleted_to))

    def event(self, message: Message) -> None:
        """An event came."""
        seq = message.seq
        if message.tenant_id != self.log.tenant:
            self.breaks(f"an event of {message.tenant_id}")
        if seq is None:
            self._without_number(message)
            return
        identity = identity_of(message.event, message.data.n, message.data.external_id)
        self.note("event", (seq, identity))
        self.world.counted["deliveries"] += 1
        mine = [place for place in self.places if place.carries(message.lead_id, message.user_id)]
        joined = [place for place in mine if place.joined and seq > place.start]
        if not joined:
            self.breaks(f"{seq} is of no channel that was joined before it")
            return
        if any(seq <= place.last for place in joined):
            self.breaks(f"{seq} after {max(place.last for place in joined)}: repeated, or out of order")
        if self._tracks:
            self._check_repeated(seq, joined[0].epoch, mine)
        for place in self.places:
            if not place.joined:
                if place in mine and place.asked is not None and seq > place.asked[1]:
                    place.ahead.add(seq)
                continue
            if place.kind == "tenant" and place in joined and seq != (place.seq or 0) + 1:
                self._check_gap(place, seq)
            # The server goes through the log once for all that was joined: what comes next is after this.
            place.seq = max(place.seq or 0, seq)
            place.last = max(place.last, seq)
        self._compare(joined[0].epoch, seq, identity)

    def _check_repeated(self, seq: int, epoch: int, mine: list[Place]) -> None:
        numbers = self._numbers.setdefault(epoch, set())
        again = [place for place in mine if seq in place.ahead]
        if seq in numbers and not again:
            self.breaks(f"{seq} came twice")
        for place in again:
            if place.joined:
                place.ahead.discard(seq)
        numbers.add(seq)

    def _check_gap(self, place: Place, seq: int) -> None:
        # What came with another channel, before this one was joined, does not come again.
        missing = set(range((place.seq or 0) + 1, seq)) - self._numbers.get(place.epoch, set())
        for epoch, first, last in self._dropped:
            if epoch == place.epoch:
                missing.difference_update(range(first, last + 1))
        if missing:
            self.breaks(f"a gap: {seq} after {place.seq} in {place.channel}")

    def _compare(self, epoch: int, seq: int, identity: str) -> None:
        log = self.log
        if log.changing or epoch != log.epoch:
            return
        known = log.seen.setdefault(seq, identity)
        if known != identity:
            self.breaks(f"{epoch}.{seq} is {identity}, for others it was {known}")

    def _without_number(self, message: Message) -> None:
        self.note("transient", (message.event, message.data.n))
        if message.event == "system.buffer_dropped":
            first, last = message.data.from_seq, message.data.to_seq
            self.note("dropped", (first, last))
            self.world.counted["dropped"] += last - first + 1
            # Of a log that has changed since, what was still on its way tells how it was before.
            current = not self.log.changing and self.places[0].epoch == self.log.epoch
            if first > last or (current and last > self.log.deleted_to):
                self.breaks(f"{first} to {last} were dropped, which the log has")
            self._dropped.append((self.places[0].epoch, first, last))
            for place in self.places:
                if place.joined and place.kind == "tenant" and first <= (place.seq or 0) + 1:
                    place.seq = max(place.seq or 0, last)
            return
        self.world.counted["transient"] += 1
        if message.data.n in self._transient:
            self.breaks(f"the transient {message.data.n} came twice")
        self._transient.append(message.data.n)

    def page(self, page: Page) -> None:
        """The answer to a poll."""
        epoch, seq = map(int, page.next_cursor.split("."))
        if epoch != page.epoch:
            self.breaks(f"the cursor {page.next_cursor} in epoch {page.epoch}")
        if page.recovered or page.recovered is None:
            start = max((place.asked[1] for place in self.places if place.asked), default=seq)
        else:
            start = seq
        for place in self.places:
            self.joined(place, epoch, start, page.recovered, None, polled=True)
        if not page.recovered and page.items:
            self.breaks("events without a place they come after")
        for item in page.items:
            self.event(item)
        last = page.items[-1].seq if page.items else None
        if seq < (last or start) or page.seq < seq:
            self.breaks(f"the cursor {page.next_cursor} after {last}, with the log at {page.seq}")
        for place in self.places:
            if place.kind == "tenant" and place.seq != seq:
                self.breaks(f"the cursor {page.next_cursor} after {place.seq}")
            place.seq = seq
            place.asked = (epoch, seq)

    # Comparing with the log

    def behind(self) -> str | None:
        """What it still has to hear; None when it is where the log is."""
        log = self.log
        if not self.ready:
            return "not connected"
        for place in self.places:
            if place.epoch != log.epoch:
                return f"in epoch {place.epoch}"
            if place.kind == "tenant":
                # What came with another channel, before this one was joined, does not come again.
                if set(range((place.seq or 0) + 1, log.head + 1)) - self._numbers.get(place.epoch, set()):
                    return f"at {place.seq} of {log.head}"
            elif missing := self._missing(place):
                return f"without {sorted(missing)[:5]} of {place.channel}"
        return None

    def _missing(self, place: Place) -> set[int]:
        log = self.log
        missing: set[int] = set()
        for epoch, after, until in place.segments:
            end = until if until is not None else log.head if epoch == log.epoch else after
            wanted = log.rows(epoch, after, end, place.wants)
            lost = wanted - self._numbers.get(epoch, set())
            for told, first, last in self._dropped:
                if told == epoch:
                    lost.difference_update(range(first, last + 1))
            missing |= {seq for seq in lost if seq > log.deleted_to or epoch != log.epoch}
        return missing

    def check(self) -> None:
        """All that it heard, once the log stands still."""
        if not self._tracks:
            return
        log = self.log
        for epoch, numbers in self._numbers.items():
            rows = log.epochs.get(epoch, {})
            # A process that has not noticed the new epoch yet gives its numbers the old one's name.
            known = numbers if epoch == log.epoch else {seq for seq in numbers if seq in rows}
            foreign = {s for s in known if s not in rows or not any(place.wants(rows[s]) for place in self.places)}
            if foreign:
                self.breaks(f"events {sorted(foreign)[:5]} of epoch {epoch} are of none of its channels")
        for place in self.places:
            if missing := self._missing(place):
                self.breaks(f"{sorted(missing)[:10]} never came to {place.channel}")


class Wire(asyncio.Protocol):
    """One connection, and the way in which messages come over it."""

    kind = ""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.over = False
        self.opened = self.heard = time.monotonic()
        self.headers: dict[bytes, bytes] | None = None

    def connection_made(self, transport) -> None:
        self.transport = transport
        if self.over:
            transport.abort()
            return
        self.heard = time.monotonic()
        transport.write(self.request())

    def data_received(self, data: bytes) -> None:
        if self.over:
            return
        self.heard = time.monotonic()
        self.buffer += data
        self.parse()

    def connection_lost(self, error: Exception | None) -> None:
        self.drop("link lost")

    def drop(self, why: str, *, at_once: bool = False) -> None:
        """Be done with it."""
        if self.over:
            return
        self.over = True
        if self.transport is not None:
            self.transport.abort()
        self.client.lost(self, why, at_once=at_once)

    def head(self) -> bool:
        """Take the head of the answer off the buffer; false when it is not all there, or refuses."""
        if self.headers is not None:
            return True
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        status, *lines = bytes(self.buffer[:end]).split(b"\r\n")
        del self.buffer[: end + 4]
        code = int(status.split(b" ")[1])
        if code not in {101, 200}:
            if code != 503:
                self.client.breaks(f"{self.kind} was answered {status!r}")
            self.drop(str(code))
            return False
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        return True

    def request(self) -> bytes:
        raise NotImplementedError

    def parse(self) -> None:
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """Half a second has passed."""
        if not self.client.ready and now - self.opened > JOIN_WITHIN:
            self.drop("not joined in time")

    def closed(self, code: int) -> None:
        """The server said that it closes, and why."""
        reaction = REACTIONS.get(code, "back off")
        if reaction not in {"back off", "reconnect now"} or code == 4429:
            self.client.breaks(f"closed with {code}")
        self.drop(str(code), at_once=reaction == "reconnect now")

    def message(self, message: Message) -> None:
        """What is told in both ways of listening."""
        client = self.client
        match message.type:
            case "event":
                client.event(message)
            case "subscribe_result":
                self.result(message)
            case "welcome":
                if message.tenant_id != client.log.tenant or message.user_id != client.user:
                    client.breaks(f"welcomed as {message.user_id} of {message.tenant_id}")
                client.note("welcome", f"{message.epoch}.{message.seq}")
                self.welcomed()
            case "pong":
                pass
            case "error" if message.code in {"draining", "unavailable"}:
                client.note("error", message.code)
            case "reconnect" | "end":
                client.note(message.type, message.code)
            case _:
                client.breaks(f"an unexpected {message}")

    def welcomed(self) -> None:
        """Now the client may speak."""

    def result(self, message: Message) -> None:
        place = next(place for place in self.client.places if place.channel == message.channel)
        self.client.joined(place, message.epoch, message.seq or 0, message.recovered, message.replayed)


class WebSocket(Wire):
    """Frames, taken apart by hand: aiohttp's client would cost more than the server."""

    kind = "ws"
    asked = 0.0  # when a pong was asked for

    def request(self) -> bytes:
        return _request(
            self.client, "/ws", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        )  # fmt: skip

    def parse(self) -> None:
        if not self.head():
            return
        buffer = self.buffer
        start, end = 0, len(buffer)
        while end - start >= 2 and not self.over:
            length, begin = buffer[start + 1], start + 2
            if length == 126:
                length, begin = int.from_bytes(buffer[start + 2 : start + 4]), start + 4
            elif length == 127:
                length, begin = int.from_bytes(buffer[start + 2 : start + 10]), start + 10
            if end < begin + length:
                break
            self._frame(buffer[start], bytes(buffer[begin : begin + length]))
            start = begin + length
        del buffer[:start]

    def _frame(self, first: int, payload: bytes) -> None:
        if first == 0x81:
            self.message(decode_message(payload))
        elif first == 0x89:
            self._send(10, payload)
        elif first == 0x88:
            self._send(8, payload[:2])
            self.closed(int.from_bytes(payload[:2]))
        else:
            self.client.breaks(f"a frame that begins with {first:#x}")

    def _send(self, opcode: int, payload: bytes) -> None:
        size = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2)
        if self.transport is not None and not self.over:
            self.transport.write(bytes((0x80 | opcode,)) + size + bytes(4) + payload)  # a mask of zeros is a mask

    def welcomed(self) -> None:
        for place in self.client.places:
            self._subscribe(place)

    def _subscribe(self, place: Place) -> None:
        since = {} if place.since is None else {"since": place.since}
        self._send(1, msgspec.json.encode({"type": "subscribe", "channel": place.channel, **since}))

    def result(self, message: Message) -> None:
        if message.success:
            super().result(message)
        elif message.retry_after is None:
            self.client.breaks(f"refused: {message.error}")
        else:
            place = next(place for place in self.client.places if place.channel == message.channel)
            self.client.note("undecided", message.error)
            self.client.world.counted["asked again"] += 1
            asyncio.get_running_loop().call_later(message.retry_after, self._subscribe, place)

    def tick(self, now: float) -> None:
        super().tick(now)
        if now - self.heard > 2 * PING_AFTER:
            self.drop("silent")
        elif now - self.heard > PING_AFTER and now - self.asked > PING_AFTER and self.headers is not None:
            self.asked = now
            self._send(1, b'{"type":"ping"}')


class EventStream(Wire):
    """Chunks of server-sent events."""

    kind = "sse"
    text = b""

    def request(self) -> bytes:
        client = self.client
        query = "&".join(f"channel={place.channel}" for place in client.places)
        since = _since(client)
        extra = [f"Last-Event-ID: {since}"] if since else []
        return _request(client, f"/api/events/stream?{query}", *extra)

    def parse(self) -> None:
        if not self.head():
            return
        while not self.over:
            line = self.buffer.find(b"\r\n")
            if line < 0:
                return
            size = int(self.buffer[:line], 16)
            if len(self.buffer) < line + 2 + size + 2:
                return
            self.text += self.buffer[line + 2 : line + 2 + size]
            del self.buffer[: line + 2 + size + 2]
            *blocks, self.text = self.text.split(b"\n\n")
            for block in blocks:
                if not self.over and not block.startswith(b":"):
                    self._block(block)
            if not size:
                self.drop("ended")

    def _block(self, block: bytes) -> None:
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n"))
        message = decode_message(fields[b"data"])
        if fields[b"event"].decode() != message.type:
            self.client.breaks(f"{fields[b'event']!r} with {message}")
        place = self.client.places[0]
        numbered = message.type == "event" and message.seq is not None
        if fields.get(b"id") != (f"{place.epoch}.{message.seq}".encode() if numbered else None):
            self.client.breaks(f"the id {fields.get(b'id')!r} of {message.seq} in epoch {place.epoch}")
        self.message(message)
        if message.type == "end":
            self.closed(int(message.code))

    def tick(self, now: float) -> None:
        super().tick(now)
        if now - self.heard > STREAM_SILENCE:
            self.drop("silent", at_once=True)


class Poll(Wire):
    """One request after the other: over one connection, or each over its own."""

    kind = "poll"
    answered = False

    def request(self) -> bytes:
        client, rng = self.client, self.client.world.rng
        self.opened = time.monotonic()
        words = [f"channel={place.channel}" for place in client.places]
        since = _since(client)
        words += [f"since={since}"] if since else []
        words += [f"wait={POLL_WAIT}", f"limit={rng.choice((1, 7, 50, 200))}"]
        extra = [] if client.keeps else ["Connection: close"]
        return _request(client, "/api/events?" + "&".join(words), *extra)

    def parse(self) -> None:
        while not self.over and self.head() and self.headers is not None:
            size = int(self.headers[b"content-length"])
            if len(self.buffer) < size:
                return
            page = decode_page(bytes(self.buffer[:size]))
            del self.buffer[:size]
            self.headers = None
            self.client.page(page)
            self.answered = True
            pause = self.client.world.rng.uniform(0.05, 0.8)
            asyncio.get_running_loop().call_later(pause, self._again)

    def _again(self) -> None:
        client = self.client
        if client.wire is not self or self.over:
            return
        if client.keeps and self.transport is not None and not self.transport.is_closing():
            self.transport.write(self.request())
            return
        self.over = True
        if self.transport is not None:
            self.transport.abort()
        client.go_on()

    def connection_lost(self, error: Exception | None) -> None:
        if self.client.keeps or not self.answered:
            super().connection_lost(error)

    def tick(self, now: float) -> None:
        if now - self.opened > POLL_WAIT + POLL_SLACK:
            self.drop("no answer")


def _since(client: Client) -> str | None:
    """The one place of a client whose channels are all joined at once."""
    return client.places[0].since


def _request(client: Client, path: str, *headers: str) -> bytes:
    lines = (f"GET {path} HTTP/1.1", f"Host: {HOST}", f"Authorization: Bearer {client.token}", *headers, "", "")
    return "\r\n".join(lines).encode()


class Crowd:
    """All clients, and the one clock that looks after them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clients: list[Client] = []

    async def enter(self, seconds: float) -> None:
        """Connect, spread over so long."""
        for client in self.clients:
            client.connect()
            await asyncio.sleep(seconds / len(self.clients))

    async def tick(self) -> None:
        """Look after silence, for ever."""
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            for client in self.clients:
                if client.wire is not None and not client.wire.over:
                    client.wire.tick(now)

    def behind(self) -> list[str]:
        return [f"{client}: {why}" for client in self.clients if (why := client.behind())]

    def check(self) -> None:
        """Compare all that was heard with the log."""
        for client in self.clients:
            client.check()
        for replay in self.world.replays:
            log = replay.client.log
            if log.deleted_to > replay.after or (replay.epoch != log.epoch and replay.epoch not in log.epochs):
                continue
            wanted = log.rows(replay.epoch, replay.after, replay.until, replay.place.wants)
            if len(wanted) != replay.count:
                replay.client.breaks(
                    f"{replay.place.channel}: replayed {replay.count} from {replay.after} to {replay.until}, "
                    f"the log has {len(wanted)}"
                )
        self.world.replays.clear()

    async def stop(self) -> None:
        for client in self.clients:
            await client.stop()
