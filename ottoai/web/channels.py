"""Which channels a user may hear, and from where: the same rights and the same cursor over WebSocket, event stream and
long poll.
"""

import logging
from typing import Final

from aiohttp import web

from ottoai.db import queries
from ottoai.domain.events import parse_channel, tenant_channel
from ottoai.errors import InvalidInput, NotFound
from ottoai.realtime.connection import User
from ottoai.realtime.hub import Since
from ottoai.web import keys
from ottoai.web.inputs import is_uuid

logger = logging.getLogger(__name__)

NO_SUCH_CHANNEL: Final = "no such channel"  # the same words for a foreign channel and for none


async def authorise(app: web.Application, user: User, name: str, route: str) -> None:
    """Raise NotFound unless the channel is one that this user may hear; and StoreUnavailable."""
    if await _may_hear(app, user, name):
        return
    kind, subject = parse_channel(name) or ("", "")
    logger.warning("Subscription refused", extra={"channel_kind": kind})
    if kind in {"tenant", "lead"}:  # a user's channel says nothing of whose user it is, and is no other tenant's
        app[keys.FOREIGN].note(user.tenant_id, kind, subject, route)
    raise NotFound(NO_SUCH_CHANNEL)


async def wanted(request: web.Request, named: list[str]) -> list[str]:
    """The channels that a request names, the tenant's if none. Raises NotFound, InvalidInput, StoreUnavailable."""
    principal = request[keys.PRINCIPAL]
    channels = list(dict.fromkeys(named or [tenant_channel(principal.tenant_id)]))
    limit = request.app[keys.CONFIG].ws_subscriptions_per_connection
    if len(channels) > limit:
        raise InvalidInput(f"channel: at most {limit} at once")
    for channel in channels:
        await authorise(request.app, principal, channel, request.path)
    return channels


async def _may_hear(app: web.Application, user: User, name: str) -> bool:
    match parse_channel(name):
        case ("tenant", subject):
            return subject == user.tenant_id
        case ("user", subject):
            return subject == user.user_id
        case ("lead", subject):
            session = app[keys.DB].one(user.tenant_id)
            return is_uuid(subject) and bool(await queries().leads.lead_exists(session, id=subject))
    return False


def parse_since(given: str | int | None, field: str = "since") -> Since | None:
    """Read a place in the log: "epoch.seq", or a number. Raises InvalidInput, naming the field."""
    if given is None:
        return None
    epoch, _, seq = str(given).rpartition(".")
    if not seq.isdecimal() or (epoch and not epoch.isdecimal()) or len(str(given)) > 40:
        raise InvalidInput(f'{field}: must be "epoch.seq" or a number')
    return (int(epoch) if epoch else None), min(int(seq), 2**62)
