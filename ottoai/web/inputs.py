"""Reading what clients put into URLs: ids, page sizes, cursors."""

import base64
import binascii
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from aiohttp import web

from ottoai.errors import InvalidInput

PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 200

Cursor = tuple[datetime, str]


def is_uuid(text: str) -> bool:
    """Whether PostgreSQL would take this as a uuid, in its usual form."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def page_size(request: web.Request) -> int:
    """`limit` of the query. Raises InvalidInput."""
    given = request.query.get("limit", str(PAGE_SIZE))
    if len(given) > 3 or not given.isdecimal() or not 1 <= int(given) <= MAX_PAGE_SIZE:
        raise InvalidInput(f"limit: must be a whole number from 1 to {MAX_PAGE_SIZE}")
    return int(given)


def cursor(request: web.Request) -> Cursor | None:
    """`cursor` of the query: where the last page ended. Raises InvalidInput."""
    given = request.query.get("cursor")
    if not given:
        return None
    try:
        moment, _, row_id = base64.urlsafe_b64decode(given.encode()).decode().partition("|")
        at = datetime.fromisoformat(moment).astimezone(UTC)
        if not is_uuid(row_id):
            raise ValueError
    except (ValueError, OverflowError, binascii.Error):
        raise InvalidInput("cursor: must be a next_cursor that a page before gave") from None
    return at, row_id


def next_cursor(at: datetime, row_id: str) -> str:
    """The cursor of the page after the row with this position."""
    return base64.urlsafe_b64encode(f"{at.isoformat()}|{row_id}".encode()).decode()
