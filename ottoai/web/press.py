"""One pressed button of an operator page: whether it may be, and that it is written down before it is done and after.

What the buttons do is in actions.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from aiohttp import web
from yarl import URL

from ottoai.config import OpsUser
from ottoai.db import Session
from ottoai.domain import audit
from ottoai.errors import Forbidden, InvalidInput, NotFound, StoreUnavailable
from ottoai.web import csrf, edge, keys, ops
from ottoai.web.inputs import is_uuid

log = logging.getLogger(__name__)

MOST: Final = 1000  # characters of a field: an address to go back to, with its filters and place
DONE: Final = "done"  # the parameter that names the entry of the audit log that a page is to show

# Where a form may lead back to: a page of operators, and no other site's.
_BACK: Final = re.compile(r"/ops(/[A-Za-z0-9-]+)*(\?[ -~]*)?")


class Press:
    """A button that an operator pressed, on a page of ours."""

    def __init__(self, request: web.Request, user: OpsUser, action: str, fields: dict[str, str]) -> None:
        self.app = request.app
        self.user = user
        self.fields = fields
        self._action = action

    @property
    def system(self) -> Session:
        """For a statement across tenants."""
        return self.app[keys.DB].system()

    @property
    def all(self) -> bool:
        """Whether all are meant instead of one."""
        return self.fields.get("all") == "1" and "id" not in self.fields

    def field(self, name: str) -> str:
        """A field. Raises InvalidInput when it is missing."""
        if not (value := self.fields.get(name)):
            raise InvalidInput(f"{name}: is missing")
        return value

    def id(self, of: str) -> str:
        """The id of what is meant. Raises InvalidInput when it is missing, NotFound when nothing has such ids."""
        if not is_uuid(given := self.field("id")):
            raise NotFound(f"There is no {of} by that id.")
        return given.lower()

    async def carry_out(self, target: str, back: str, do: Callable[[], Awaitable[str]]) -> web.Response:
        """Do it, which gives the outcome in a few words, and lead to a page that tells it."""
        entry = await self._noted(target)
        try:
            outcome = await do()
        except BaseException as error:
            outcome = audit.failed(error)
            raise
        finally:
            extra = {"actor": self.user.name, "action": self._action, "target": target, "outcome": outcome}
            log.info("Operator action", extra=extra)
            if entry is not None:
                with suppress(StoreUnavailable):  # the log has it
                    await audit.settle(self.system, entry, outcome)
        to = URL(self.fields.get("back") or back)
        if entry is not None:
            to = to.update_query({DONE: str(entry)})
        return web.Response(status=303, headers={**ops.HEADERS, "Location": str(to)}, text=f"{outcome}\n")

    async def _noted(self, target: str) -> int | None:
        try:
            return await audit.note(self.system, self.user.name, self._action, target)
        except StoreUnavailable:  # what does not need the database is done all the same, and is in the log
            log.warning("Operator action is not in the audit log", extra={"action": self._action, "target": target})
            return None


async def pressed(request: web.Request, action: str) -> Press:
    """The button that was pressed. Raises NotSignedIn, NotFound, Forbidden, InvalidInput."""
    user = ops.admitted(request)
    try:
        if user.role != "operator":
            raise Forbidden("Only operators may do this; you may look.")
        ops.refuse_foreign_page(request)
        fields = await _fields(request)
        csrf.check(request, user, fields.get(csrf.FIELD))
    except Forbidden as error:
        extra = {"actor": user.name, "action": action, "reason": error.detail}
        log.warning("Operator action refused", extra=extra)
        raise
    if not _BACK.fullmatch(fields.get("back", "/ops")):
        raise InvalidInput("back: is no page of operators")
    return Press(request, user, action, fields)


async def shown(request: web.Request) -> audit.Entry | None:
    """What was just done, for the page that a press led to."""
    given = request.query.get(DONE, "")
    if not (given.isascii() and given.isdecimal() and len(given) < 19):
        return None
    return await audit.find(request.app[keys.DB].system(), int(given))


async def _fields(request: web.Request) -> dict[str, str]:
    if request.content_type.startswith("multipart/"):  # our forms send no files, and its parser raises what it likes
        raise InvalidInput("the form cannot be read")
    try:
        await edge.body(request)  # in time; post() goes by what was read
        sent = await request.post()
    except (ValueError, LookupError):  # no UTF-8, no such charset
        raise InvalidInput("the form cannot be read") from None
    fields: dict[str, str] = {}
    for name, value in sent.items():
        if not isinstance(value, str) or len(value) > MOST or not value.isprintable():
            raise InvalidInput(f"a field is not one line of at most {MOST} characters")
        if name in fields:
            raise InvalidInput("a field was given more than once")
        fields[name] = value
    return {name: value for name, value in fields.items() if value}
