"""What the wheel remembers of connections that come, go and bring new tokens."""

import asyncio
from datetime import UTC, datetime, timedelta

from ottoai.domain.roles import Role
from ottoai.metrics import Metrics
from ottoai.realtime.connection import Connection
from ottoai.realtime.wheel import AUTH_GRACE, SPARE, Wheel
from ottoai.realtime.wires import WEBSOCKET
from ottoai.web.claims import Principal


class Wire(asyncio.Transport):
    """A client's end."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = bytearray()

    def write(self, data: bytes) -> None:
        self.taken += data

    def is_closing(self) -> bool:
        return False


class World:
    """A wheel, with connections that end when they are closed."""

    def __init__(self) -> None:
        self.connections: dict[str, Connection] = {}
        self.closed: list[str] = []
        self.wheel = Wheel(Metrics("test"), self.close, self.connections)

    def close(self, connection: Connection, code: int, reason: str) -> None:
        self.closed.append(reason)
        self.leave(connection)

    def leave(self, connection: Connection) -> None:
        del self.connections[connection.id]
        self.wheel.remove(connection)

    def enter(self, expires_at: datetime) -> tuple[Connection, Wire]:
        wire = Wire()
        connection = Connection(Principal("t", "u", Role.MEMBER, 0.0, expires_at), wire, "", WEBSOCKET)
        self.connections[connection.id] = connection
        self.wheel.add(connection)
        return connection, wire


def test_who_came_and_went_is_not_remembered_until_its_token_runs_out():
    world, tomorrow = World(), datetime.now(UTC) + timedelta(days=1)
    stays, wire = world.enter(tomorrow)
    for _ in range(3 * SPARE):
        world.leave(world.enter(tomorrow)[0])
        stays.expires_at = tomorrow  # a client may bring a token as often as it likes
        world.wheel.watch_expiry(stays)
    assert len(world.wheel._expiries) <= 2 * len(world.connections) + SPARE
    world.wheel.tick(0.0, tomorrow.timestamp() - 1)
    assert b"auth_expiring" in wire.taken
    world.wheel.tick(0.0, tomorrow.timestamp() + AUTH_GRACE)
    assert world.closed == ["expired"]


def test_who_was_warned_is_still_closed_in_time_whatever_is_tidied_up():
    world, soon = World(), datetime.now(UTC) + timedelta(seconds=30)
    world.enter(soon)
    world.wheel.tick(0.0, soon.timestamp() - 1)
    for _ in range(3 * SPARE):
        world.leave(world.enter(soon + timedelta(days=1))[0])
    world.wheel.tick(0.0, soon.timestamp() + AUTH_GRACE - 1)
    assert world.closed == []
    world.wheel.tick(0.0, soon.timestamp() + AUTH_GRACE)
    assert world.closed == ["expired"]


def test_a_new_token_is_heeded_and_the_old_ones_time_passes_unnoticed():
    world, soon = World(), datetime.now(UTC) + timedelta(seconds=30)
    connection, _ = world.enter(soon)
    connection.expires_at = soon + timedelta(hours=1)
    world.wheel.watch_expiry(connection)
    world.wheel.tick(0.0, soon.timestamp() + AUTH_GRACE)
    assert world.closed == []
    world.wheel.tick(0.0, soon.timestamp() + 3600)
    world.wheel.tick(0.0, soon.timestamp() + 3600 + AUTH_GRACE)
    assert world.closed == ["expired"]
