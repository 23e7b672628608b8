"""Who may open the operator pages (basic authentication), and what their answers carry."""

import base64
import hmac
import logging
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from ottoai.config import Config, OpsUser
from ottoai.errors import Forbidden, NotFound, NotSignedIn
from ottoai.web import keys
from ottoai.web.middlewares import client_ip

log = logging.getLogger(__name__)

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers would name no origin when our own forms are sent
    "X-Content-Type-Options": "nosniff",
}


def refuse_foreign_page(request: web.Request) -> None:
    """A browser sends its user's password along with what another site's page makes it post. Raises Forbidden."""
    origin = request.headers.get("Origin")
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or (
        origin is not None and not _is_ours(origin, request)
    ):
        raise Forbidden("This was sent by another site's page.")


def _is_ours(origin: str, request: web.Request) -> bool:
    """Whether a page of this origin is one of ours; what stands in front of us may have changed the host."""
    public: str = request.app[keys.CONFIG].public_url
    try:
        return urlsplit(origin).netloc in {request.host, urlsplit(public).netloc} - {""}
    except ValueError:
        return False


def admitted(request: web.Request) -> OpsUser:
    """Which of OPS_USERS the caller is. Without any, the pages are for development only, and everybody an operator.
    Raises NotSignedIn, NotFound.
    """
    config: Config = request.app[keys.CONFIG]
    if not config.ops_users:
        if not config.development:
            raise NotFound("There is nothing at this address.")
        return OpsUser("developer", "", "operator")
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    try:
        name, _, password = base64.b64decode(given, validate=True).decode().partition(":")
    except ValueError:
        raise NotSignedIn from None
    found = [user for user in config.ops_users if _is(user, name, password)]  # all are compared, found or not
    if found and scheme.lower() == "basic":
        return found[0]
    # Without the name: it may be a password, typed into the wrong field.
    log.warning("Operator sign-in refused", extra={"ip": client_ip(request, config.trusted_proxies)})
    raise NotSignedIn


def _is(user: OpsUser, name: str, password: str) -> bool:
    same_name = hmac.compare_digest(user.name.encode(), name.encode())
    same_password = hmac.compare_digest(user.password.encode(), password.encode())
    return same_name and same_password
