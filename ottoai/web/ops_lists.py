"""GET /ops/jobs, /ops/jobs/{id}, /ops/audit: jobs that failed, one of them whole, and what operators did."""

from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web

from ottoai.domain import audit, failed_jobs, periodic
from ottoai.domain.failed_jobs import COUNTED, Count
from ottoai.errors import InvalidInput, NotFound
from ottoai.web import inputs, keys
from ottoai.web.ops_frame import address, render

SHOWN: Final = 50

Word = Annotated[str, msgspec.Meta(max_length=200)]


class JobQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the list of jobs can be asked. Empty is what a form sends of a field that nobody filled in."""

    state: Literal["dead", "open"] = "dead"
    job: Word = ""
    tenant: Word = ""
    cursor: Word = ""
    done: Word = ""


async def jobs(request: web.Request) -> web.Response:
    """Jobs that were given up, or failed and are tried again: the latest first."""

    async def read() -> dict[str, Any]:
        asked = inputs.query(request, JobQuery)
        system = request.app[keys.DB].system()
        of = msgspec.json.encode((asked.state, asked.job, asked.tenant))
        found = await failed_jobs.page(
            system,
            asked.state,
            tenant=asked.tenant or None,
            job=asked.job or None,
            before=inputs.place(asked.cursor, of),
            limit=SHOWN + 1,
        )
        shown = found[:SHOWN]
        counts = await failed_jobs.counts(system)
        return {
            "asked": asked,
            "jobs": shown,
            "first": not asked.cursor,
            "older": address(request, cursor=inputs.cursor_of(shown[-1].at, shown[-1].id, of))
            if len(found) > SHOWN
            else None,
            "dead": _counted(counts, "dead"),
            "open": _counted(counts, "open"),
            "counts": [each for each in counts if each.state == asked.state],
            "runs": await periodic.last(system),
        }

    return await render(request, "ops_jobs.html", "Jobs", read)


def _counted(counts: list[Count], state: str) -> str:
    number = sum(each.number for each in counts if each.state == state)
    return f"{number:,}" if number < COUNTED else f"more than {COUNTED - 1:,}"


async def job(request: web.Request) -> web.Response:
    """All that is known of one job."""

    async def read() -> dict[str, Any]:
        job_id = request.match_info["id"]
        found = await failed_jobs.find(request.app[keys.DB].system(), job_id) if inputs.is_uuid(job_id) else None
        if found is None:
            raise NotFound("There is no job by that id (any more).")
        return {"job": found}

    return await render(request, "ops_job.html", "Jobs", read)


async def audit_log(request: web.Request) -> web.Response:
    """What operators did, the latest first."""

    async def read() -> dict[str, Any]:
        given = request.query.get("before", "")
        if given and not (given.isascii() and given.isdecimal() and len(given) < 19):
            raise InvalidInput("before: must be the number of an entry")
        found = await audit.recent(request.app[keys.DB].system(), SHOWN + 1, int(given) if given else None)
        older = address(request, before=str(found[SHOWN - 1].id)) if len(found) > SHOWN else None
        return {"entries": found[:SHOWN], "older": older, "first": not given}

    return await render(request, "ops_audit.html", "Audit", read)
