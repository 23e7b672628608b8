"""Which carrier a tenant's texts go through: its Twilio account, where it has one, else the development sender."""

import time
from typing import Final

from jobs.senders import DevelopmentSender, Sender, Unknown
from jobs.twilio_http import Http
from jobs.twilio_sender import TwilioSender
from ottoai.config import Config
from ottoai.db import Database
from ottoai.domain import tenants
from ottoai.vault import Vault

KEPT: Final = 15.0  # seconds; a token that was rotated counts from then on
BOUND: Final = 10_000


class Carriers:
    """The senders of all tenants."""

    def __init__(self, config: Config, db: Database, http: Http) -> None:
        self._config = config
        self._db = db
        self._http = http
        self._vault = Vault(config.secret_keys)
        self._development = DevelopmentSender(db)
        self._known: dict[str, tuple[float, Sender]] = {}

    async def of(self, tenant_id: str, name: str | None = None) -> Sender:
        """The tenant's sender; by its `name`, that of a text which was begun. Raises Unknown when there is no longer
        any such, and nobody can be asked.
        """
        if name == self._development.name:
            return self._development
        until, sender = self._known.get(tenant_id, (0.0, self._development))
        if time.monotonic() >= until:
            sender = await self._find(tenant_id)
            if len(self._known) >= BOUND:
                self._known.clear()
            self._known[tenant_id] = (time.monotonic() + KEPT, sender)
        if name is not None and sender.name != name:
            raise Unknown(f"the tenant has no account at {name} any more")
        return sender

    def forget(self, tenant_id: str) -> None:
        """Look again for the tenant's account at the next text."""
        self._known.pop(tenant_id, None)

    async def _find(self, tenant_id: str) -> Sender:
        access = await tenants.text_access(self._db.system(), self._vault, tenant_id)
        if access is None:
            return self._development
        base = self._config.public_url
        callback = f"{base}/twilio/sms/{access.hook}" if base and access.hook else None
        return TwilioSender(access, self._http, self._config.twilio_api_url, callback)
