"""GET /api/tasks and /api/tasks/{id}."""

from typing import Annotated, Final, Literal
from uuid import UUID

from aiohttp import web
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from ottoai.db import queries
from ottoai.web import inputs, keys
from ottoai.web.api import reading
from ottoai.web.inputs import PageQuery

ME: Final = "me"


class TaskQuery(PageQuery, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which tasks. `assigned_to`: a user's id, or `me`."""

    status: Literal["open", "done"] | UnsetType = UNSET
    assigned_to: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET
    kind: Annotated[str, Meta(min_length=1, max_length=100)] | UnsetType = UNSET
    lead_id: UUID | UnsetType = UNSET


async def list_tasks(request: web.Request) -> web.Response:
    """The work for the tenant's staff, newest first."""
    asked = inputs.query(request, TaskQuery)
    if asked.assigned_to == ME:
        asked = replace(asked, assigned_to=request[keys.PRINCIPAL].user_id)
    return await reading.listing(request, "tasks", queries().tasks.list_tasks, asked)


async def get_task(request: web.Request) -> web.Response:
    """One task."""
    return await reading.one(request, queries().tasks.get_task, id=reading.row_id(request))
