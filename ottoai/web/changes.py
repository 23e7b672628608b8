"""What has changed in the API for those who use it. docs/API_CHANGELOG.md and GET /docs are made from this."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Change:
    """One version of the API, and what it brought."""

    version: str
    date: str
    lines: tuple[str, ...]


# What a client has to be ready for, and what it may rely on.
MAY_CHANGE: Final = (
    "New operations, new optional parameters and fields of bodies, new headers.",
    "New fields in answers and events, and new events: ignore what you do not know.",
    "New words in fields such as `status` or `kind`: treat one that you do not know as none of those you handle.",
    "The order of fields, the words of `detail` and `title`, the form of ids, cursors and ETags.",
    "The numbers of limits; the headers `RateLimit` and `Retry-After` always tell those that hold.",
    "New types of problems under statuses that are already there: go by the status where you do not know the type.",
)
MAY_NOT_CHANGE: Final = (
    "No operation, parameter, field or event is taken away, or changes its name, type or meaning.",
    "What is optional does not become required; what is always in an answer stays in it.",
    "The order of lists and of events, and what an ETag, a cursor or a place in the log promises.",
)
NOTICE: Final = (
    "What has to go all the same is marked `deprecated` in /openapi.json and stands here as deprecated, with what "
    "replaces it, for at least six months; from then on its answers carry `Deprecation` and `Sunset`."
)

CHANGES: Final = (
    Change(
        "0.1.0",
        "not yet released",
        (
            "`GET /api/calls`, `GET /api/calls/{id}`: calls.",
            "`GET /api/leads`, `GET /api/leads/{id}`: leads. `PATCH /api/leads/{id}` changes a lead's name.",
            "`GET /api/leads/{id}/timeline`: all that happened with a lead.",
            "`GET /api/leads/{id}/messages`: its texts.",
            "`POST /api/leads/{id}/messages` sends a text, once for each `Idempotency-Key`.",
            "`GET /api/tasks`, `GET /api/tasks/{id}`: tasks.",
            "`PATCH /api/tasks/{id}` assigns, completes or reopens a task.",
            "`GET /api/missed-calls`, `GET /api/missed-calls/{id}`: missed calls and their rescues.",
            "`GET /api/settings`, `PATCH /api/settings`: the tenant's own settings.",
            "`GET /api/events`, `GET /api/events/stream`: the log by long poll and as server-sent events.",
            "Lists: `limit`, `cursor`, filters; a parameter that is unknown, repeated or malformed is refused (400).",
            "`ETag`, `If-None-Match` (304) and, for changes, `If-Match` (412, 428).",
            "Pages of other origins may use the API where the operator allows them (CORS).",
            "`GET /openapi.json`, `GET /asyncapi.json`, `GET /docs`, `GET /docs/problems/{type}`: about the API.",
        ),
    ),
)


def markdown() -> str:
    """The changelog as a part of a page."""
    parts = ["## May change without notice\n", *(f"- {line}" for line in MAY_CHANGE)]
    parts += ["\n## Does not\n", *(f"- {line}" for line in MAY_NOT_CHANGE), f"\n{NOTICE}"]
    for change in CHANGES:
        parts += [f"\n## {change.version} – {change.date}\n", *(f"- {line}" for line in change.lines)]
    return "\n".join(parts) + "\n"
