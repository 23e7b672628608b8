"""The types that providers' modules and `receive` share: bytes in, Delivery out."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from ottoai.domain.reports import Report
from ottoai.errors import InvalidInput

# The headers that are kept beside the signature; no other is, since some carry secrets.
HEADERS: Final = ("content-type", "user-agent")


class Raw(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as it came. `headers` are lower-cased, and only those that are read: the signature's, and HEADERS."""

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

    @property
    def NAME(self) -> str:  # noqa: N802 - a module's constant
        """What it is called in the database, in logs and in metrics."""

    @property
    def FOLDER(self) -> str:  # noqa: N802
        """How the addresses begin to which it reports."""

    @property
    def KINDS(self) -> tuple[str, ...]:  # noqa: N802
        """What it reports, as the addresses go on."""

    @property
    def OWNER(self) -> str:  # noqa: N802
        """The field that usually tells whose a delivery is."""

    @property
    def SIGNATURE(self) -> str:  # noqa: N802
        """The header that holds the signature, in lower case."""

    @property
    def SIGNED(self) -> str:  # noqa: N802
        """How the signature is made, for the docs."""

    def identify(self, raw: Raw) -> tuple[str, ...]:
        """What in the body tells whose the delivery is, as `kind:value`. Raises InvalidInput when it cannot be read."""

    def verify(self, raw: Raw, keys: Sequence[str]) -> bool:
        """Whether one of these keys signed it."""

    def parse(self, raw: Raw) -> Delivery:
        """What it says. Raises InvalidInput naming the field that is missing or of the wrong type."""
