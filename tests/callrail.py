"""CallRail's API, played by a small real HTTP server, as its reference describes the list of calls."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from ottoai import samples

TOKEN = "api-token-of-{}"
DEFAULT_FIELDS = (
    "answered", "customer_name", "customer_phone_number", "direction", "duration", "id", "recording", "start_time",
    "tracking_phone_number", "voicemail",
)  # fmt: skip

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def listed(webhook: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The call of a webhook as the API lists it."""
    return {
        **{name: webhook[name] for name in DEFAULT_FIELDS if name != "id"},
        "id": webhook["resource_id"],
        "duration": int(webhook["duration"]),
        "call_type": "answered" if webhook["answered"] else "missed",
        "company_id": webhook["company_resource_id"],
        "source_name": webhook["source_name"],
        **fields,
    }


def missed(number: int, ago: timedelta = timedelta(minutes=30), **fields: Any) -> dict[str, Any]:
    """The webhook of a call that nobody answered, `ago`; each from another caller, and it is day there now."""
    now = datetime.now(UTC)
    caller = fields.pop("customer_phone_number", None) or samples.daytime_phone(now, 100 + number % 100)
    started = (now - ago).isoformat(timespec="milliseconds")
    return samples.callrail(
        "call-complete", number, now=now, customer_phone_number=caller, start_time=started, **fields
    )  # fmt: skip


class CallRail:
    """The server. `calls`: by account. `next_answers`: what it does instead, once each, by account or "" for any."""

    def __init__(self) -> None:
        self.calls: dict[str, list[dict[str, Any]]] = {}
        self.tokens: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.next_answers: deque[tuple[str, Answer]] = deque()
        self.always: dict[str, Answer] = {}
        self.before: Answer | None = None  # awaited after a page with calls was made and before it is sent
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        account = request.match_info["account"]
        self.requests.append((account, dict(request.query)))
        if account in self.always:
            return await self.always[account](request)
        if self.next_answers and self.next_answers[0][0] in ("", account):
            return await self.next_answers.popleft()[1](request)
        if request.headers.get("Authorization") != f'Token token="{self.tokens.get(account)}"':
            return web.json_response({"error": "HTTP Token: Access denied."}, status=401)
        page = self.page(account, request.query)
        if self.before and page["calls"]:
            await self.before(request)
        return web.json_response(page)

    def page(self, account: str, query: Any) -> dict[str, Any]:
        """A page of the list, made as the reference says."""
        assert query["time_zone"] == "Etc/UTC"
        since, until = (datetime.fromisoformat(query[f"{end}_date"]).replace(tzinfo=UTC) for end in ("start", "end"))
        found = [
            call
            for call in self.calls.get(account, [])
            if since <= datetime.fromisoformat(call["start_time"]) <= until
            and query.get("company_id") in (None, call["company_id"])
        ]
        assert (query["sort"], query["order"]) == ("start_time", "asc")
        found.sort(key=lambda call: datetime.fromisoformat(call["start_time"]))
        per_page, number = min(int(query["per_page"]), 250), int(query["page"])
        fields = {*DEFAULT_FIELDS, *query["fields"].split(",")}
        chosen = found[per_page * (number - 1) : per_page * number]
        return {
            "page": number,
            "per_page": per_page,
            "total_pages": -(-len(found) // per_page),
            "total_records": len(found),
            "calls": [{name: value for name, value in call.items() if name in fields} for call in chosen],
        }


def status(code: int, **headers: str) -> Answer:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=code, headers=headers)

    return answer


def body(data: bytes, **headers: str) -> Answer:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=data, headers={"Content-Type": "application/json", **headers})

    return answer


@asynccontextmanager
async def serving_callrail() -> AsyncIterator[CallRail]:
    callrail = CallRail()
    app = web.Application()
    app.router.add_get("/v3/a/{account}/calls.json", callrail.answer)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.1)
    callrail.url = str(server.make_url("")).rstrip("/")
    try:
        yield callrail
    finally:
        await server.close()
