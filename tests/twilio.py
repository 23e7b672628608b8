"""Speaking to the API as Twilio does."""

import itertools
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from ottoai import samples
from ottoai.db import Database
from ottoai.domain import tenants
from ottoai.vault import Vault
from ottoai.webhooks import twilio
from tests.conftest import SECRET_KEY

TOKEN = "auth-token-of-{}"
FORM = "application/x-www-form-urlencoded"

_numbers = itertools.count(1)


def new_id() -> int:
    """A number that no sample of this run had before."""
    return next(_numbers)


async def give(db: Database, tenant: str = "demo", **given: str) -> None:
    """Give a tenant a Twilio account: the samples' one, with a token of the tenant's own (TOKEN)."""
    told = {
        "twilio_sid": samples.TWILIO_ACCOUNT,
        "twilio_number": samples.TWILIO_NUMBER,
        "twilio_token": TOKEN.format(tenant),
        **given,
    }
    await tenants.change(db.system(), Vault((SECRET_KEY,)), tenant, {}, told)


async def call_back(
    base: str,
    kind: str,
    fields: dict[str, Any] | bytes,
    *,
    key: str | None = None,
    hook: str = "",
    signed_url: str | None = None,
    signature: str | None = None,
    query: str = "",
    **headers: str,
) -> tuple[int, str | None, str]:
    """Send a signed callback; (HTTP status, what became of it, content type and body). `key=""` sends it unsigned."""
    path = f"/twilio/{kind}" + (f"/{hook}" if hook else "") + query
    if signature is None and key != "":
        signed = {} if isinstance(fields, bytes) else fields
        signature = twilio.sign(signed_url or base + path, signed, key or TOKEN.format("demo"))
    headers = {"Content-Type": FORM, **({"X-Twilio-Signature": signature} if signature else {}), **headers}
    data = fields if isinstance(fields, bytes) else urlencode(fields).encode()
    url = URL(base + path, encoded=True)  # sent as it was signed
    async with aiohttp.ClientSession() as session, session.post(url, data=BytesIO(data), headers=headers) as response:
        told = f"{response.content_type} {await response.text()}"
        return response.status, response.headers.get("X-Webhook-Status"), told
