"""The types that providers' modules and `receive` share: bytes in, Delivery out."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from ottoai.domain.reports import Report
from ottoai.errors import InvalidInput


class Raw(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as it came. `headers` are lower-cased and only those a provider's module asks for."""

    provider: str
    kind: str
    hook: str  # the tenant's own path; empty when the shared one was used
    headers: Mapping[str, str]
    url: str = ""  # that was called, as its sender knows it: some sign it. Its query repeats secrets; never log it
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


class Provider(Protocol):
    """What a provider's module offers. All pure: no clock, no network."""

    OWNER: str  # the field that usually tells whose a delivery is
    HEADERS: tuple[str, ...]  # lower-case names of the headers that are read and kept

    def identify(self, raw: Raw) -> tuple[str, ...]:
        """What tells whose the delivery is, as `kind:value`. Raises InvalidInput when the body cannot be read."""

    def signed(self, raw: Raw) -> bool:
        """Whether the delivery carries a signature at all."""

    def verify(self, raw: Raw, keys: Sequence[str]) -> bool:
        """Whether one of these keys signed it."""

    def parse(self, raw: Raw) -> Delivery:
        """What it says. Raises InvalidInput naming the field that is missing or of the wrong type."""
