"""POST below /ops: what operators can do. Who may, and what is written down of it: see press."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Final

from aiohttp import web

from ottoai.domain import audit, failed_jobs, outbox, paused
from ottoai.errors import NotFound, OttoError
from ottoai.queue import QUEUES
from ottoai.web import keys
from ottoai.web.ops_frame import address
from ottoai.web.press import Press, pressed
from ottoai.web.quarantine import cursor, page_of
from ottoai.webhooks import quarantine
from ottoai.webhooks.quarantine import MANY

SKEW: Final = timedelta(hours=1)  # the database's clock may be ahead of ours

_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


async def retry(request: web.Request) -> web.Response:
    """Open a dead job again (`id`), or all (`all=1`), or all of a name (with `job`)."""
    press = await pressed(request, "retry")
    if not press.all:
        job = press.id("job")
        return await press.carry_out(job, f"/ops/jobs/{job}", lambda: _retry(press, job))
    name = press.fields.get("job")
    return await press.carry_out(f"all {name}" if name else "all", "/ops/jobs", lambda: _retry_all(press, name))


async def _retry(press: Press, job: str) -> str:
    opened = await outbox.retry(press.system, [job], None, datetime.now(UTC) + SKEW)
    press.app[keys.WAKER].wake(opened)
    return "opened again" if opened else await _not_dead(press, job)


async def _retry_all(press: Press, name: str | None) -> str:
    """In batches, each enqueued while the next is opened; one that dies again meanwhile is not opened twice."""
    began, count = datetime.now(UTC), 0
    while opened := await outbox.retry(press.system, None, name, began):
        press.app[keys.WAKER].wake(opened)
        count += len(opened)
    return f"{count} opened again"


async def discard(request: web.Request) -> web.Response:
    """Close a dead job (`id`) that nobody wants any more."""
    press = await pressed(request, "discard")
    job = press.id("job")

    async def do() -> str:
        closed = await failed_jobs.discard(press.system, [job], None, datetime.now(UTC) + SKEW)
        return "discarded" if closed else await _not_dead(press, job)

    return await press.carry_out(job, f"/ops/jobs/{job}", do)


async def _not_dead(press: Press, job: str) -> str:
    found = await failed_jobs.find(press.system, job)
    if found is None:
        raise NotFound("There is no job by that id.")
    return f"nothing to do: it is {found.state}, not dead"


async def replay(request: web.Request) -> web.Response:
    """Try a quarantined delivery again (`id`), or all of a page (`all=1`), which leads to the page after it."""
    press = await pressed(request, "replay")
    back = _page(request)
    if not press.all:
        delivery = press.id("delivery")
        return await press.carry_out(delivery, back, lambda: _replay(press, [delivery]))
    found, left = await page_of(request)
    if left:
        back = _page(request, cursor=cursor(request, found[-1]))

    async def do() -> str:
        outcome = await _replay(press, [each.id for each in found])
        return f"{outcome}; {left if left < MANY else f'{MANY} or more'} left" if left else outcome

    return await press.carry_out(f"all of {len(found)}", back, do)


def _page(request: web.Request, **changes: str) -> str:
    return address(request, **changes).replace("/replay", "", 1)


async def _replay(press: Press, ids: list[str]) -> str:
    """What came of each, without a word of what it was about."""
    tally: Counter[str] = Counter()
    for each in ids:
        try:
            done = await quarantine.replay(press.app[keys.INGEST], each)
        except OttoError as error:
            if len(ids) == 1:
                raise
            tally[f"failed ({error.title.lower()})"] += 1
            continue
        words = done.status.replace("_", " ")
        if len(ids) == 1:
            return f"{words}: {', '.join(done.events)}" if done.events else words
        tally[words] += 1
    return ", ".join(f"{count} {words}" for words, count in sorted(tally.items())) or "nothing is quarantined"


async def kick(request: web.Request) -> web.Response:
    """End a live connection (`id`), in whichever process it is; its client may come back."""
    press = await pressed(request, "kick")
    connection = press.id("connection")

    async def do() -> str:
        where = await press.app[keys.KICKS].kick(connection)
        if where == "nowhere":
            raise NotFound("No process has a connection by that id (any more).")
        return {
            "here": "closed",
            "elsewhere": "closed by another process",
            "unheard": "not in this process; Redis is away, so that others cannot be asked",
        }[where]

    return await press.carry_out(connection, "/ops", do)


async def acknowledge(request: web.Request) -> web.Response:
    """Note that somebody has seen an alert (`id`)."""
    press = await pressed(request, "acknowledge")
    if not _NUMBER.fullmatch(given := press.field("id")):
        raise NotFound("There is no alert by that id.")

    async def do() -> str:
        if await press.app[keys.ALERTS].acknowledge(press.system, int(given), press.user.name):
            return "acknowledged"
        if not await audit.is_alert(press.system, int(given)):
            raise NotFound("There is no alert by that id.")
        return "nothing to do: it is over, or was acknowledged before"

    return await press.carry_out(given, "/ops", do)


async def pause(request: web.Request) -> web.Response:
    """Take nothing more from a `queue`, until it is let go on."""
    return await _turn(request, "pause")


async def resume(request: web.Request) -> web.Response:
    """Let a paused `queue` go on."""
    return await _turn(request, "resume")


async def _turn(request: web.Request, action: str) -> web.Response:
    press = await pressed(request, action)
    if (queue := press.field("queue")) not in QUEUES:
        raise NotFound("There is no queue by that name.")

    async def do() -> str:
        if action == "pause":
            return "paused" if await paused.pause(press.system, queue, press.user.name) else "it was paused already"
        return "goes on" if await paused.resume(press.system, queue) else "it was not paused"

    return await press.carry_out(queue, "/ops", do)
