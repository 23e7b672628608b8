"""Every error that this software raises on purpose: one tree.

The docstring of a class is the sentence its reader sees when no better detail was given. `status` is the HTTP
status and `type` the last part of the problem type (RFC 9457); the socket sends the same `type` as error code.
What went wrong in a library stays in the library's own exceptions until `db`, `queue` or an edge translates it.
"""

from typing import ClassVar


class OttoError(Exception):
    """Something went wrong."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str | None = None, *, retry_after: int | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.retry_after = retry_after
        super().__init__(self.detail)


class ConfigError(OttoError):
    """The configuration is not usable; the start is refused."""

    type, title = "config", "Bad configuration"

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(["The configuration is not usable:", *(f"  - {p}" for p in problems)]))


class InvalidInput(OttoError):
    """The request cannot be understood."""

    status, type, title = 400, "invalid-input", "Invalid input"


class Unauthenticated(OttoError):
    """A valid token is needed: send it as `Authorization: Bearer <jwt>`."""

    status, type, title = 401, "unauthenticated", "Unauthenticated"
    challenge: ClassVar[str] = "Bearer"  # WWW-Authenticate


class BadSignature(Unauthenticated):
    """The delivery's signature does not match its company's signing key."""

    type, title = "bad-signature", "Bad signature"


class NotSignedIn(Unauthenticated):
    """This is for operators: sign in as one of `OPS_USERS`."""

    type, title = "not-signed-in", "Not signed in"
    challenge = 'Basic realm="OttoAI operators", charset="UTF-8"'


class Forbidden(OttoError):
    """This is not yours to do."""

    status, type, title = 403, "forbidden", "Forbidden"


class NotFound(OttoError):
    """There is nothing here by that name."""

    status, type, title = 404, "not-found", "Not found"


class TooLarge(OttoError):
    """The body is larger than 1 MiB."""

    status, type, title = 413, "too-large", "Too large"


class Conflict(OttoError):
    """What was asked for contradicts what is there."""

    status, type, title = 409, "conflict", "Conflict"


class OptedOut(Conflict):
    """This number asked for no more texts."""

    type, title = "opted-out", "Opted out"


class PreconditionRequired(OttoError):
    """A change has to say which version it changes: read the item, and send its ETag as `If-Match`."""

    status, type, title = 428, "precondition-required", "Precondition required"


class PreconditionFailed(OttoError):
    """The item has changed since it was read: read it again, and send its new ETag as `If-Match`."""

    status, type, title = 412, "precondition-failed", "Precondition failed"

    def __init__(self, detail: str | None = None, *, version: int | None = None) -> None:
        self.version = version  # as it is now
        super().__init__(detail)


class UnsupportedMedia(OttoError):
    """The body is of a kind that is not read here: send JSON, with its Content-Type."""

    status, type, title = 415, "unsupported-media-type", "Unsupported media type"

    def __init__(self, detail: str | None = None, *, accepted: str = "application/json") -> None:
        self.accepted = accepted
        super().__init__(detail)


class ExpectationFailed(OttoError):
    """The header `Expect` may say `100-continue` and nothing else."""

    status, type, title = 417, "expectation-failed", "Expectation failed"


class Unprocessable(OttoError):
    """The request is understood and cannot be carried out as it is."""

    status, type, title = 422, "unprocessable", "Unprocessable"


class OverQuota(OttoError):
    """There are too many connections or messages; close some, or try later."""

    status, type, title = 429, "over-quota", "Over quota"


class RateLimited(OttoError):
    """There were too many requests in a short time; wait as long as `Retry-After` says."""

    status, type, title = 429, "rate-limited", "Too many requests"


class UpgradeRequired(OttoError):
    """This address speaks WebSocket only: connect with the protocol `ottoai.v1`."""

    status, type, title = 426, "upgrade-required", "Upgrade required"


class StoreUnavailable(OttoError):
    """A store does not answer; try again shortly."""

    status, type, title = 503, "unavailable", "Unavailable"

    def __init__(self, detail: str | None = None, *, retry_after: int | None = 1) -> None:
        super().__init__(detail, retry_after=retry_after)


class OutcomeUnknown(StoreUnavailable):
    """The database did not answer; whether it did what it was asked is not known."""


class NoRoom(OttoError):
    """There is no room to keep this; try again later."""

    status, type, title = 503, "no-room", "No room"

    def __init__(self, detail: str | None = None, *, retry_after: int | None = 60) -> None:
        super().__init__(detail, retry_after=retry_after)


class ProviderFailed(OttoError):
    """A provider's API did not answer as it should."""

    status, type, title = 502, "provider-failed", "Provider failed"

    def __init__(self, reason: str, detail: str, *, retry_after: int | None = None) -> None:
        self.reason = reason  # one word, for metrics
        super().__init__(detail, retry_after=retry_after)


class Draining(StoreUnavailable):
    """This process is about to stop; another one answers."""

    type, title = "draining", "Draining"
