"""GET /api/tasks and /api/tasks/{id}, PATCH /api/tasks/{id}."""

from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from ottoai import trace
from ottoai.db import queries
from ottoai.domain import patterns, tasks
from ottoai.web import inputs, keys
from ottoai.web.api import reading, writing
from ottoai.web.claims import MAX_ID
from ottoai.web.inputs import PageQuery

ME: Final = "me"

Assignee = Annotated[str, Meta(min_length=1, max_length=MAX_ID, extra_json_schema={"pattern": patterns.LINE})]


class TaskQuery(PageQuery, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which tasks. `assigned_to`: a user's id, or `me`."""

    status: Literal["open", "done"] | UnsetType = UNSET
    assigned_to: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET
    kind: Annotated[str, Meta(min_length=1, max_length=100)] | UnsetType = UNSET
    lead_id: UUID | UnsetType = UNSET


class TaskPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be changed of a task; what is left out stays. `assigned_to`: a user's id, `me`, or null for nobody."""

    status: Literal["open", "done"] | UnsetType = UNSET
    assigned_to: Assignee | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        patterns.check("assigned_to", self.assigned_to, patterns.LINE)


async def list_tasks(request: web.Request) -> web.Response:
    """The work for the tenant's staff, newest first."""
    asked = inputs.query(request, TaskQuery)
    if asked.assigned_to == ME:
        asked = replace(asked, assigned_to=request[keys.PRINCIPAL].user_id)
    return await reading.listing(request, "tasks", queries().tasks.list_tasks, asked)


async def get_task(request: web.Request) -> web.Response:
    """One task."""
    return await reading.one(request, queries().tasks.get_task, id=reading.row_id(request))


async def change_task(request: web.Request) -> web.Response:
    """Assign, complete or reopen a task."""
    patch, versions = await writing.body(request, TaskPatch), writing.versions(request)
    principal = request[keys.PRINCIPAL]
    if patch.assigned_to == ME:
        patch = replace(patch, assigned_to=principal.user_id)
    change = await tasks.change(
        reading.session(request),
        principal.tenant_id,
        reading.row_id(request),
        patch,
        versions,
        user_id=principal.user_id,
        trace_id=trace.trace_id(),
    )
    return writing.changed(request, change)
