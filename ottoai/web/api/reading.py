"""How every noun is listed and read: one page or one row, as the JSON text that PostgreSQL made of it."""

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final, Generic, TypeVar

import msgspec
from aiohttp import web

from ottoai.cache import Name
from ottoai.db import Row, Session
from ottoai.errors import NotFound
from ottoai.web import inputs, keys
from ottoai.web.inputs import PageQuery

START: Final = ("infinity", "ffffffff-ffff-ffff-ffff-ffffffffffff")  # before the first row: lists go backwards
NOTHING: Final = "There is nothing here by that id."

Item = TypeVar("Item")
One = Callable[..., Awaitable[Row | None]]


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """One page; `next_cursor` is null on the last."""

    items: list[Item]
    next_cursor: str | None


def session(request: web.Request) -> Session:
    """The database, as the tenant of the token sees it."""
    return request.app[keys.DB].one(request[keys.PRINCIPAL].tenant_id)


def row_id(request: web.Request) -> str:
    """The id that the URL names. Raises NotFound for what is none, in the words for one that is not there."""
    given = request.match_info["id"].lower()
    if not inputs.is_uuid(given):
        raise NotFound(NOTHING)
    return given


async def listing(request: web.Request, name: Name, query: One, asked: PageQuery, **of: str) -> web.Response:
    """Answer with a page of a list. The query takes the fields of `asked` and what the list is `of`, and gives what
    list_calls in sql/calls.sql does. Raises InvalidInput, and NotFound when what it is `of` is not there.
    """
    filters = {**inputs.filters(asked), **of}
    what = msgspec.json.encode((name, filters))
    place = inputs.place(asked.cursor, what)
    tenant_id, cache = request[keys.PRINCIPAL].tenant_id, request.app[keys.CACHE]
    # The tenant is in it, so that no tag of one says anything about the page of another under the same address.
    digest = blake2b(msgspec.json.encode((tenant_id, what, asked.limit, place)), digest_size=9).hexdigest()
    version = await cache.version(tenant_id, name)
    tag = f"{version}-{digest}"
    if has(request, tag):
        return web.Response(status=304, headers={"ETag": f'W/"{tag}"'})

    async def read() -> bytes:
        after_at, after_id = place or START
        row = await query(session(request), page_size=asked.limit, after_at=after_at, after_id=after_id, **filters)
        return _page(row, what)

    body = await cache.page(tenant_id, name, version, digest, read)
    # Weak: of two processes that read at this version, one may have seen a row of a later one.
    return web.Response(body=body, content_type="application/json", headers={"ETag": f'W/"{tag}"'})


def _page(row: Row | None, what: bytes) -> bytes:
    if row is None or not row.get("known", True):
        raise NotFound(NOTHING)
    following = inputs.cursor_of(row["last_at"], row["last_id"], what) if row["more"] else None
    return b'{"items":[%s],"next_cursor":%s}' % ((row["items"] or "").encode(), msgspec.json.encode(following))


async def one(request: web.Request, query: One, **which: str) -> web.Response:
    """Answer with one row, or that the client has it. Raises NotFound, in the same words for a foreign id and none."""
    row = await query(session(request), **which)
    if row is None:
        raise NotFound(NOTHING)
    return item(request, row)


def item(request: web.Request, row: Row, status: int = 200) -> web.Response:
    """A row's `item`, under its `version` as ETag."""
    tag = str(row["version"])
    if request.method in {"GET", "HEAD"} and has(request, tag):
        response = web.Response(status=304)
    else:
        response = web.Response(body=row["item"].encode(), status=status, content_type="application/json")
    response.headers["ETag"] = f'"{tag}"'
    return response


def has(request: web.Request, tag: str) -> bool:
    """Whether the client says that it has what is under this ETag."""
    return any(known.value in {tag, "*"} for known in request.if_none_match or ())


def respond(body: object, status: int = 200) -> web.Response:
    """JSON."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
