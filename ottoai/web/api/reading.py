"""How every noun is listed and read: one page or one row, as the JSON text that PostgreSQL made of it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from ottoai.db import Row, Session
from ottoai.errors import NotFound
from ottoai.web import inputs, keys


class Page(msgspec.Struct, frozen=True):
    """One page; `next_cursor` is null on the last."""

    items: list[msgspec.Raw]
    next_cursor: str | None


def session(request: web.Request) -> Session:
    """The database, as the tenant of the token sees it."""
    return request.app[keys.DB].one(request[keys.PRINCIPAL].tenant_id)


async def listing(request: web.Request, query: Callable[..., AsyncIterator[Row]]) -> web.Response:
    """Answer with a page of a query that takes page_size, after_at and after_id and gives item, at and id."""
    size = inputs.page_size(request)
    after_at, after_id = inputs.cursor(request) or (None, None)
    # One row more than asked for tells whether another page follows.
    rows = [row async for row in query(session(request), page_size=size + 1, after_at=after_at, after_id=after_id)]
    items = [msgspec.Raw(row["item"].encode()) for row in rows[:size]]
    last = rows[size - 1] if len(rows) > size else None
    return respond(Page(items, inputs.next_cursor(last["at"], last["id"]) if last else None))


async def one(request: web.Request, query: Callable[..., Awaitable[str | None]]) -> web.Response:
    """Answer with the row that the URL names. Raises NotFound, in the same words for a foreign id and for none."""
    row_id = request.match_info["id"]
    text = await query(session(request), id=row_id) if inputs.is_uuid(row_id) else None
    if text is None:
        raise NotFound("There is nothing here by that id.")
    return web.Response(body=text.encode(), content_type="application/json")


def respond(body: Any, status: int = 200) -> web.Response:
    """JSON."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
