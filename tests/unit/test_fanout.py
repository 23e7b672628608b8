"""The invariant of the live hub: whatever is joined, left, stalled and appended in whatever order, each connection gets
every event of its channels once, and on each channel in order."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ottoai.domain.events import Event
from ottoai.metrics import Metrics
from ottoai.realtime import fanout as fanout_module
from ottoai.realtime import stream as stream_module
from ottoai.realtime.connection import Connection
from ottoai.realtime.fanout import Fanout
from ottoai.realtime.stream import Entry, Stream
from ottoai.realtime.wires import WEBSOCKET
from ottoai.web.claims import Principal

CHANNELS = ("tenant:t:events", "lead:a:timeline", "lead:b:timeline")


class Wire(asyncio.Transport):
    """A client's end: takes bytes as long as it reads, and shows what it got."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = bytearray()
        self.waiting = bytearray()
        self.reading = True

    def write(self, data: bytes) -> None:
        (self.taken if self.reading else self.waiting).extend(data)

    def resume(self) -> None:
        self.reading = True
        self.taken += self.waiting
        self.waiting.clear()

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return False

    def events(self) -> list[tuple[int, set[str]]]:
        found, at = [], 0
        written = self.taken + self.waiting
        while at < len(written):
            size, begin = written[at + 1], at + 2
            if size == 126:
                size, begin = int.from_bytes(written[at + 2 : at + 4]), at + 4
            message = msgspec.json.decode(bytes(written[begin : begin + size]))
            leads = {f"lead:{message['lead_id']}:timeline"} if "lead_id" in message else set()
            found.append((message["seq"], leads | {CHANNELS[0]}))
            at = begin + size
        return found


class World:
    """One tenant's log, its stream here, and clients that come and go."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.stream = Stream("t", 1, 0)
        self.fanout = Fanout(Metrics("test"), self.close, self.read_log, self.lost)
        self.wires: list[Wire] = []
        self.connections: list[Connection] = []
        self.expected: list[dict[str, int]] = []  # per connection and channel: events after this number are due
        self.joined_at: list[dict[str, int]] = []  # and how many frames it had been written when it joined

    def close(self, connection: Connection, code: int, reason: str) -> None:
        raise AssertionError(f"closed with {code}: {reason}")

    def lost(self, connection: Connection, first: int, last: int) -> None:
        raise AssertionError(f"lost {first}..{last}")

    async def read_log(self, stream, after, until, channel, limit):
        await asyncio.sleep(0)
        name = None if channel is None or channel[0] == "tenant" else f"lead:{channel[1]}:timeline"
        page = [e for e in self.log[after:until] if name is None or name in e.channels][:limit]
        await asyncio.sleep(0)
        return page, 1

    def append(self, lead: str | None) -> None:
        event = Event(
            tenant_id="t", seq=len(self.log) + 1, event="test.x", ts=datetime.now(UTC), severity="info", trace_id="",
            lead_id=lead, data=msgspec.Raw(b'{"filler":"' + b"x" * 200 + b'"}'),
        )  # fmt: skip
        entry = Entry(event, 1)
        self.log.append(entry)
        self.stream.append(entry)
        self.fanout.mark(self.stream)

    def connect(self) -> None:
        wire = Wire()
        user = Principal("t", "u", "member", 0.0, datetime.now(UTC) + timedelta(hours=1))
        connection = Connection(user, wire, "", WEBSOCKET)
        self.stream.members[connection] = None
        self.stream.join(connection)
        self.wires.append(wire)
        self.connections.append(connection)
        self.expected.append({})
        self.joined_at.append({})

    def join(self, index: int, channel: str, back: int | None) -> None:
        """As Hub.subscribe does once it knows that the log reaches back."""
        connection = self.connections[index]
        if channel in connection.channels:
            return
        self.fanout.pause(self.stream, connection)
        head = self.stream.flushed
        # Also numbers that are known here but not flushed: the client heard them from another process.
        start = head if back is None else min(max(0, head - back), self.stream.head)
        connection.join(channel, start)
        self.expected[index][channel] = start
        self.joined_at[index][channel] = len(self.wires[index].events())
        self.fanout.follow(self.stream, connection)

    async def settle(self) -> None:
        for wire in self.wires:
            wire.resume()
        calm = 0
        for _ in range(2_000):
            await asyncio.sleep(0)
            live = all(connection.group is not None for connection in self.connections)
            calm = calm + 1 if live and not self.stream.pending else 0
            if calm == 30:  # turns, more than a flush of four connections takes
                return
        raise AssertionError("did not settle")

    def check(self) -> None:
        for wire, due, joined_at in zip(self.wires, self.expected, self.joined_at, strict=True):
            got = wire.events()
            numbers = [seq for seq, _ in got]
            assert len(numbers) == len(set(numbers)), f"twice: {numbers}"
            wanted = {e.seq for e in self.log if any(e.seq > due.get(c, e.seq) for c in e.channels)}
            assert set(numbers) == wanted
            for channel, start in due.items():
                since = got[joined_at[channel] :]
                on_channel = [seq for seq, channels in since if channel in channels and seq > start]
                assert on_channel == sorted(on_channel)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([None, "a", "b"]), st.integers(1, 8)),
        st.tuples(st.just("join"), st.integers(0, 3), st.sampled_from(CHANNELS), st.sampled_from([None, 0, 3, 50, -4])),
        st.tuples(st.just("stall"), st.integers(0, 3)),
        st.tuples(st.just("resume"), st.integers(0, 3)),
        st.tuples(st.just("turns"), st.integers(1, 6)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, ring=st.sampled_from([2, 10, 1000]))
@example(  # a connection changes its channels between two writes of a flush
    steps=[
        ("join", 0, CHANNELS[0], None),
        ("join", 1, CHANNELS[0], None),
        ("turns", 1),
        ("append", None, 1),
        ("turns", 1),
        ("join", 1, CHANNELS[1], None),
    ],
    ring=1000,
)
def test_every_event_once_and_in_order(monkeypatch, steps, ring):
    monkeypatch.setattr(stream_module, "RING_EVENTS", ring)
    monkeypatch.setattr(fanout_module, "YIELD_EVERY", 1)  # a turn of the loop after every single write
    monkeypatch.setattr(fanout_module, "READ_PAGE", 3)
    monkeypatch.setattr(fanout_module, "CHUNK", 300)
    monkeypatch.setattr(fanout_module, "HIGH", 900)
    monkeypatch.setattr(fanout_module, "LOW", 300)
    monkeypatch.setattr(fanout_module, "DRAIN_POLL", 0)
    monkeypatch.setattr(fanout_module, "WINDOW_MAX", 0)

    async def play() -> None:
        world = World()
        for _ in range(4):
            world.connect()
        flusher = asyncio.create_task(world.fanout.run())
        for step in steps:
            match step:
                case ("append", lead, count):
                    for _ in range(count):
                        world.append(lead)
                case ("join", index, channel, back):
                    world.join(index, channel, back)
                case ("stall", index):
                    world.wires[index].reading = False
                case ("resume", index):
                    world.wires[index].resume()
                case ("turns", count):
                    for _ in range(count):
                        await asyncio.sleep(0)
        await world.settle()
        flusher.cancel()
        world.check()

    asyncio.run(play())
