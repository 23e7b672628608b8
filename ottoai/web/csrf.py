"""The token that shows that a form came from a page of ours: a browser adds an operator's password to whatever another
site's page makes it send, and only our pages, which that site cannot read, hold the token.

It is of a user and a day, made with a key derived from SECRET_KEYS, so every API process knows it and none keeps it.
"""

import base64
import hashlib
import hmac
from datetime import UTC, date, datetime, timedelta
from typing import Final

from aiohttp import web

from ottoai.config import OpsUser
from ottoai.errors import Forbidden
from ottoai.web import keys

FIELD: Final = "csrf"
_PURPOSE: Final = b"ottoai: forms of operator pages"


def token(request: web.Request, user: OpsUser) -> str:
    """What the forms of a user's page carry."""
    return made(request.app[keys.CONFIG].secret_keys[0], user.name, datetime.now(UTC).date())


def check(request: web.Request, user: OpsUser, given: object) -> None:
    """Raise Forbidden unless this is the user's token of today or yesterday, made with any of SECRET_KEYS."""
    today = datetime.now(UTC).date()
    wanted = [
        made(secret, user.name, day)
        for secret in request.app[keys.CONFIG].secret_keys
        for day in (today, today - timedelta(days=1))
    ]
    sent = given.encode() if isinstance(given, str) else b""
    if not sum(hmac.compare_digest(sent, each.encode()) for each in wanted):  # all are compared, found or not
        raise Forbidden("The form's token is missing, or too old: load the page again.")


def made(secret: str, user: str, day: date) -> str:
    """The token of a user and a day."""
    key = hmac.digest(secret.encode(), _PURPOSE, hashlib.sha256)
    return base64.urlsafe_b64encode(hmac.digest(key, f"{day} {user}".encode(), hashlib.sha256)).decode().rstrip("=")
