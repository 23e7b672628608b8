"""The numbers that a client of the live protocol has to live with: for /asyncapi.json and docs/PROTOCOL.md."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Final

import msgspec

from ottoai.config import Config
from ottoai.realtime import connection, fanout, messages, stream, wheel
from ottoai.web import auth, inputs, session, sockets, ws
from ottoai.web.api import events


class Limit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A number that a client has to live with; `setting` is the variable that changes it."""

    value: float
    meaning: str
    unit: str | None = None  # s or bytes
    setting: str | None = None


# The limits that a deployment may set.
SETTINGS: Final = (
    "ws_connections_per_user",
    "ws_connections_per_tenant",
    "ws_subscriptions_per_connection",
    "ws_messages_per_minute",
    "event_retention_days",
)
_VARIABLES: Final = {declared.name: declared.metadata["env"] for declared in fields(Config)}


def limits(settings: Mapping[str, int]) -> dict[str, Limit]:
    """Every limit; `settings` has the values of SETTINGS."""

    def of_setting(name: str, meaning: str) -> Limit:
        return Limit(settings[name], meaning, setting=_VARIABLES[name])

    malformed = (
        f"Malformed messages within {session.MALFORMED_WINDOW:g} s, the last of which ends the connection with 4400"
    )
    return {
        "token": Limit(auth.MAX_TOKEN, "Length of a token", "bytes"),
        "auth_within": Limit(ws.AUTH_WITHIN, "Time for the token as a first message", "s"),
        "unauthenticated_connections": Limit(
            ws.UNAUTHENTICATED, "Connections of one process whose token is still awaited; more get 429"
        ),
        "connections_per_user": of_setting(
            "ws_connections_per_user",
            "Open connections of a user: WebSockets, event streams and waiting polls together",
        ),
        "connections_per_tenant": of_setting("ws_connections_per_tenant", "Open connections of a tenant's users"),
        "channels_per_connection": of_setting("ws_subscriptions_per_connection", "Channels of one connection"),
        "messages_per_minute": of_setting(
            "ws_messages_per_minute",
            "Messages of one connection in a minute; at first as many more as it may have channels",
        ),
        "message": Limit(messages.MAX_MESSAGE, "Message from a client", "bytes"),
        "malformed_messages": Limit(session.MALFORMED_LIMIT, malformed),
        "heartbeat": Limit(wheel.HEARTBEAT, "Time between two ping frames, or two comments of an event stream", "s"),
        "silence": Limit(wheel.STALE, "Silence of a WebSocket's client before close 4408", "s"),
        "auth_warning": Limit(wheel.AUTH_WARNING, "Warning before the token expires", "s"),
        "auth_grace": Limit(wheel.AUTH_GRACE, "Grace after the token expired", "s"),
        "drain": Limit(
            sockets.DRAIN_SPREAD,
            "Time in which a process that stops lets its clients go; less when they are few "
            f"({sockets.DRAIN_PACE * 1000:g} ms for each)",
            "s",
        ),
        "unsent_high": Limit(
            connection.HIGH,
            "Unsent bytes past which a client leaves the live stream, beside the "
            f"{connection.SEND_BUFFER // 1024} KiB of its socket",
            "bytes",
        ),
        "unsent_low": Limit(connection.LOW, "Unsent bytes below which it gets more", "bytes"),
        "stuck": Limit(fanout.STUCK, "Time without taking enough, before close 4409", "s"),
        "window": Limit(fanout.WINDOW_MAX, "Longest that a live event waits to be joined with others", "s"),
        "recent_events": Limit(
            stream.RING_EVENTS, "Latest events of a tenant that are resumed from memory, older ones from the log"
        ),
        "recent_bytes": Limit(stream.RING_BYTES, "Their size at most", "bytes"),
        "retention_days": of_setting("event_retention_days", "Days that events can be resumed from the log"),
        "poll_wait": Limit(events.MAX_WAIT, "Longest `wait` of a long poll", "s"),
        "poll_limit": Limit(inputs.MAX_PAGE_SIZE, f"Largest `limit` of a long poll; {inputs.PAGE_SIZE} if not given"),
    }
