"""The words of /openapi.json and /docs that stand in no type and no docstring: what holds for all of the API, tags,
headers, parameters of paths, and the ways to show who one is.
"""

from typing import Final

from ottoai import errors
from ottoai.web import auth, jwks
from ottoai.web.api import writing
from ottoai.web.api.events import PLACE
from ottoai.web.schemas import Json
from ottoai.webhooks.delivery import Provider
from ottoai.webhooks.receive import PROVIDERS

INTRODUCTION: Final = "Calls, leads, texts, tasks and missed calls of one tenant: the one that the token names."
RULES: Final = (
    "Every request under `/api/` carries `Authorization: Bearer <jwt>`.",
    "Errors are `application/problem+json` (RFC 9457). The `detail` begins with the name of the field that is wrong.",
    "The `type` of an error leads to an explanation; its `trace_id` finds it in our logs.",
    "Lists answer `items` and `next_cursor`: the `cursor` of the next page, beside the same filters; null on the last.",
    "An answer with an `ETag` can be asked for again with `If-None-Match`: 304 while it is still so.",
    "A change says in `If-Match` what it was made on: the `ETag` that was last seen.",
    "Times are RFC 3339 in UTC, phone numbers E.164.",
    "Answers may get new fields, and fields new words: ignore what you do not know.",
    "What happens is told live over `/ws` and `/api/events/stream`: `/asyncapi.json`.",
)

TAGS: Final = {
    "Calls": "Phone calls, as the providers reported them.",
    "Leads": "Who called or texted, or was called or texted: one for each phone number.",
    "Messages": "Text messages.",
    "Tasks": "What there is to do for the tenant's staff.",
    "Missed calls": "Missed calls, and how the rescue of each stands.",
    "Settings": "The tenant's own.",
    "Events": "The tenant's log, live.",
    "Documents": "The API about itself.",
    "Service": "Whether the service is well.",
    "Testing": "Events of one's own, to see whether they arrive. Not served in production.",
    "Webhooks": "Where the telephony and identity providers deliver.",
}

TAG: Final = '(W/)?"[!#-~]+"'
KEY: Final = f"^[!-~]{{1,{writing.MAX_KEY}}}$"
REQUEST_HEADERS: Final[dict[str, Json]] = {
    "If-None-Match": {
        "description": "The `ETag` of an earlier answer: 304 without a body if that is still so.",
        "schema": {"type": "string", "examples": ['"0f1e2d3c4b5a69788796a5b4c3d2e1f0"']},
    },
    "If-Match": {
        "description": "The `ETag` that was last seen; 412 if the thing has changed since.",
        "required": True,
        "schema": {"type": "string", "pattern": f"^([*]|{TAG}(, *{TAG})*)$", "examples": ['"3"']},
    },
    "Idempotency-Key": {
        "description": "A word of your own, a UUID for instance: repeating the request with it has no second effect.",
        "schema": {"type": "string", "pattern": KEY, "examples": ["5c2f7a53-8f0e-4f57-9d30-2b9c1a6b7d11"]},
    },
    "Last-Event-ID": {
        "description": "The `id` of the last event that was read, to go on after it. Counts more than `since`.",
        "schema": {"type": "string", "pattern": f"^({PLACE[1:-1]})?$", "examples": ["1795468818.42"]},
    },
}

ANSWER_HEADERS: Final[dict[str, Json]] = {
    "X-Request-Id": {"description": "The request's own, if it is sane; else the trace id.", "required": True},
    "ETag": {"description": "What `If-None-Match` takes, and for a single thing `If-Match`.", "required": True},
    "RateLimit": {"description": "How the limits stand (draft-ietf-httpapi-ratelimit-headers).", "required": True},
    "RateLimit-Policy": {"description": "The limits.", "required": True},
    "Retry-After": {"description": "Seconds to wait, where that is known."},
    "Idempotency-Replayed": {"description": "`true`: the answer to an earlier request with the same key."},
    "X-Webhook-Status": {"description": "What became of the delivery: `status` of Receipt.", "required": True},
    "WWW-Authenticate": {"description": "`Bearer`.", "required": True},
}

PATH_PARAMETERS: Final[dict[str, Json]] = {
    "id": {"description": "The thing's id.", "schema": {"type": "string", "format": "uuid"}},
    "hook": {"description": "The tenant's own unguessable path.", "schema": {"type": "string", "minLength": 1}},
    "kind": {"description": "What is reported.", "schema": {"type": "string"}},
    "type": {
        "description": "The last part of a problem's `type`.",
        "schema": {"type": "string", "minLength": 1, "examples": [errors.NotFound.type]},
    },
}


def signature_of(provider: Provider) -> str:
    """What a provider's signature is called: callRailSignature."""
    first, *others = provider.FOLDER.split("-")
    return f"{first}{''.join(map(str.capitalize, others))}Signature"


SECURITY: Final[dict[str, Json]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": f"A JWT ({jwks.ALGORITHM} or {auth.ALGORITHM}, as configured) with `exp`, `iat`, `sub`, and one "
        "org as `org_id` or `o.id`, which is the tenant.",
    },
    "devKey": {"type": "apiKey", "in": "header", "name": "X-Dev-Key", "description": "One of DEV_KEYS."},
    **{
        signature_of(each): {
            "type": "apiKey",
            "in": "header",
            "name": each.SIGNATURE.title(),
            "description": f"{each.SIGNED}.",
        }
        for each in PROVIDERS.values()
    },
    "clerkSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "svix-signature",
        "description": "`v1,` and base64(HMAC-SHA256(secret, id.timestamp.body)), with `svix-id` and `svix-timestamp`.",
    },
}
