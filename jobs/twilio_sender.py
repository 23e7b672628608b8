"""Texts through Twilio, by its own package. Twilio knows no idempotency key for a text, so one whose fate is not known
is looked for among those that it lists, and is never handed over again.
"""

import asyncio
import logging
from datetime import timedelta
from typing import Any, Final

from aiohttp import ClientConnectorError, ClientError, ConnectionTimeoutError
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.rest import Client

from jobs.senders import NotSent, Rejected, Unknown
from jobs.twilio_http import Http
from ottoai.domain.tenants import TextAccess
from ottoai.domain.texts import Text
from ottoai.webhooks.twilio_errors import sort_of

log = logging.getLogger(__name__)

SEND_WITHIN: Final = 10.0  # seconds; Twilio answers in some tenths of one
LOOKUP_WITHIN: Final = 10.0
LISTED: Final = 50  # texts to one phone since one was begun: more than a conversation has
SKEW: Final = timedelta(minutes=2)  # by which Twilio's clock may be behind ours


class TwilioSender:
    """One tenant's account. Cheap to make: the connections are `http`'s."""

    name = "twilio"
    exact = False

    def __init__(self, access: TextAccess, http: Http, api_url: str, callback: str | None) -> None:
        self._access = access
        self._callback = callback
        self._client = Client(access.account, access.token, http_client=http)
        self._client.api.base_url = api_url

    async def send(self, text: Text, tenant_id: str) -> str:  # noqa: ARG002 - the account is the tenant's
        """See Sender. Twilio is told where to report what becomes of the text, with our own id in the address: it may
        report before we have learnt its id.
        """
        told: dict[str, Any] = {"to": text.recipient, "from_": self._access.number, "body": text.body}
        if self._callback:
            told["status_callback"] = f"{self._callback}?message={text.id}"
        try:
            async with asyncio.timeout(SEND_WITHIN):
                message = await self._client.messages.create_async(**told)
        except (ClientConnectorError, ConnectionTimeoutError) as error:
            raise NotSent("Twilio cannot be reached") from error
        except TwilioRestException as error:
            raise _meant(error) from error
        except (
            TimeoutError,
            ClientError,
            TwilioException,
            ValueError,
        ) as error:  # ValueError: an answer that is no JSON
            raise Unknown(type(error).__name__) from error
        if not message.sid:
            raise Unknown("no sid in Twilio's answer")
        return str(message.sid)

    async def lookup(self, text: Text, tenant_id: str) -> str | None:  # noqa: ARG002 - likewise
        """Twilio's id of the text: that of one to the same phone with the same words, made since ours was begun."""
        try:
            async with asyncio.timeout(LOOKUP_WITHIN):
                listed = await self._client.messages.list_async(
                    to=text.recipient, from_=self._access.number, limit=LISTED
                )
        except (TimeoutError, ClientError, TwilioException, ValueError) as error:
            raise Unknown(f"{type(error).__name__} while it was looked up") from error
        for message in listed:
            made = message.date_created
            since = text.begun_at is None or made is None or made >= text.begun_at - SKEW
            # A trial account's texts begin with a remark of Twilio's.
            if since and (message.body or "").endswith(text.body):
                return str(message.sid)
        return None


def _meant(error: TwilioRestException) -> Exception:
    """What an answer that is no success means. Of a fault of Twilio's own nobody knows how far it had come."""
    code = str(error.code or error.status)
    if error.status >= 500:
        return Unknown(f"HTTP {error.status}")
    sort = "retry" if error.status in {401, 429} else sort_of(code)
    if sort == "retry":
        return NotSent(f"Twilio's error {code}")
    return Rejected(code, untextable=sort == "untextable", opted_out=sort == "opted_out")
