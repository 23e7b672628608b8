"""GET /api/events: the log by long poll, with the rights and the cursor of the live connections."""

import time
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from ottoai.realtime.stream import Stream
from ottoai.web import inputs, keys
from ottoai.web.api.reading import respond
from ottoai.web.channels import parse_since, wanted

MAX_WAIT: Final = 25  # seconds: proxies end what is silent for 30
LOOK: Final = 1.0  # seconds between two looks whether the client is still there


PLACE: Final = r"^([0-9]{1,19}[.])?[0-9]{1,19}$"

Channels = Annotated[
    list[str],
    Meta(description="What to listen to: `tenant:{id}:events`, `lead:{id}:timeline` or `user:{id}:tasks`, as often as "
    "there are channels. Without any, the tenant's."),
]  # fmt: skip
Since = Annotated[
    str, Meta(pattern=PLACE, description="The place to go on from: `epoch.seq`, or a number of the current epoch.")
]


class StreamQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an event stream may be asked for."""

    channel: Channels = []
    since: Since | UnsetType = UNSET


class EventQuery(StreamQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a long poll may be asked for."""

    limit: Annotated[int, Meta(ge=1, le=inputs.MAX_PAGE_SIZE, description="Most events at once.")] = inputs.PAGE_SIZE
    wait: Annotated[int, Meta(ge=0, le=MAX_WAIT, description="Seconds to wait for the first.")] = 0


class Events(msgspec.Struct, frozen=True):
    """A stretch of the log. `next_cursor` is the next poll's `since`, `seq` the log's head. `recovered` false: the log
    cannot tell what came after `since`; load afresh and go on from `next_cursor`. Null: `since` was not given.
    """

    items: list[msgspec.Raw]
    next_cursor: str
    epoch: int
    seq: int
    recovered: bool | None


async def poll_events(request: web.Request) -> web.Response:
    """Events of the log, by long poll: at most `limit` durable ones of `channel` (one or several) after `since`,
    waiting up to `wait` seconds for the first; without `since` at once where the log stands.
    """
    app, principal = request.app, request[keys.PRINCIPAL]
    asked = inputs.query(request, EventQuery)
    limit, wait = asked.limit, asked.wait
    channels = await wanted(request, asked.channel)
    since = parse_since(asked.since or None)
    hub = app[keys.HUB]
    stream = await hub.stream(principal.tenant_id)
    recovered = await hub.reaches(stream, since)
    found = await hub.read(stream, channels, since[1], limit) if since and recovered else None
    if found and not found[0] and wait:
        await app[keys.QUOTAS].take(principal.tenant_id, principal.user_id)
        began = time.monotonic()
        try:
            while found and not found[0] and await _grown(request, stream, began + wait):
                found = await hub.read(stream, channels, found[1], limit)
        finally:
            app[keys.QUOTAS].release(principal.tenant_id, principal.user_id)
            request[keys.WAITED] = time.monotonic() - began
    items, after = found or ([], stream.flushed)
    told = [msgspec.Raw(entry.payload) for entry in items]
    recovered = recovered and found is not None
    return respond(Events(told, f"{stream.epoch}.{after}", stream.epoch, stream.flushed, recovered))


async def _grown(request: web.Request, stream: Stream, deadline: float) -> bool:
    """Wait for more, as long as it makes sense; false when it does not."""
    app = request.app
    while (left := deadline - time.monotonic()) > 0:
        known = stream.flushed
        await stream.grows(min(left, LOOK))
        if request.transport is None or app[keys.HEALTH].draining or not app[keys.HUB].knows(stream):
            return False
        app[keys.TOKENS].check(request[keys.PRINCIPAL])
        if stream.flushed > known:
            return True
    return False
