"""The types that providers' modules and `receive` share: bytes in, Delivery out."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ottoai.domain.calls import Report
from ottoai.errors import InvalidInput


class Raw(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as it came. `headers` are lower-cased and only those a provider's module asks for."""

    provider: str
    kind: str
    hook: str  # the tenant's own path; empty when the shared one was used
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object. Raises InvalidInput saying where it breaks."""
        try:
            decoded = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidInput(f"body: not JSON ({error})") from error
        if not isinstance(decoded, dict):
            raise InvalidInput("body: must be a JSON object")
        return decoded


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery, understood. `variant` tells it from other deliveries of the same kind about the same thing."""

    external_id: str
    variant: str
    report: Report
