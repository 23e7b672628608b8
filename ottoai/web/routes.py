"""Every URL of the API process, on one screen."""

from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from ottoai.errors import NotFound
from ottoai.web import (
    actions,
    asyncapi,
    demo,
    docs,
    emit,
    internal,
    keys,
    openapi,
    ops_lists,
    problem,
    quarantine,
    status,
    stream,
    webhooks,
    ws,
)
from ottoai.web.api import calls, events, leads, messages, missed_calls, settings, tasks, timeline
from ottoai.webhooks.delivery import Provider
from ottoai.webhooks.receive import PROVIDERS

DEVELOPMENT: Final = "/demo"  # how the addresses begin that are there in development only
STATIC: Final = Path(__file__).parents[1] / "static"

Route = tuple[str, str, Handler]  # method, path, what answers


def _reports(provider: Provider) -> tuple[Route, Route]:
    """POST /FOLDER/KIND: where a provider reports. Below each, /HOOK: each tenant has an address of its own."""
    path, handler = f"/{provider.FOLDER}/{{kind:{'|'.join(provider.KINDS)}}}", webhooks.reports(provider)
    return ("POST", path, handler), ("POST", f"{path}/{{hook}}", handler)


async def static(request: web.Request) -> web.StreamResponse:
    """A file of a page."""
    path = STATIC / request.match_info["name"]
    if not path.is_file():
        raise NotFound("There is nothing at this address.")
    return web.FileResponse(path, headers={"Cache-Control": "public, max-age=300"})


ROUTES: Final[tuple[Route, ...]] = (
    ("GET", "/health", internal.health),
    ("GET", "/ready", internal.ready),
    ("GET", "/internal/worker/heartbeat", internal.worker_heartbeat),
    ("GET", "/metrics", internal.prometheus),
    ("GET", "/ws", ws.connect),
    ("GET", "/ws/test-emit", emit.test_emit),
    ("POST", "/ws/test-emit", emit.test_emit),
    *(route for provider in PROVIDERS.values() for route in _reports(provider)),
    ("POST", "/clerk/webhook", webhooks.clerk_event),
    ("GET", "/ops", status.page),
    ("GET", "/ops.txt", status.text),
    ("GET", "/ops.json", status.json),
    ("GET", "/ops/alerts", status.alerts),
    ("GET", "/ops/jobs", ops_lists.jobs),
    ("GET", "/ops/jobs/{id}", ops_lists.job),
    ("GET", "/ops/quarantine", quarantine.page),
    ("GET", "/ops/audit", ops_lists.audit_log),
    ("POST", "/ops/jobs/retry", actions.retry),
    ("POST", "/ops/jobs/discard", actions.discard),
    ("POST", "/ops/quarantine/replay", actions.replay),
    ("POST", "/ops/alerts/acknowledge", actions.acknowledge),
    ("POST", "/ops/connections/kick", actions.kick),
    ("POST", "/ops/queues/pause", actions.pause),
    ("POST", "/ops/queues/resume", actions.resume),
    ("GET", "/demo", demo.page),
    ("GET", "/demo/token", demo.token),
    ("GET", "/demo/samples/{name:missed|unnoticed|reply}", demo.sample),
    ("GET", "/docs", docs.page),
    ("GET", "/docs/problems/{type}", problem.explain),
    ("GET", "/openapi.json", openapi.get_openapi),
    ("GET", "/asyncapi.json", asyncapi.get_asyncapi),
    ("GET", "/static/{name:[a-z]{1,20}[.](css|js)}", static),
    ("GET", "/api/events", events.poll_events),
    ("GET", "/api/events/stream", stream.stream_events),
    ("GET", "/api/calls", calls.list_calls),
    ("GET", "/api/calls/{id}", calls.get_call),
    ("GET", "/api/leads", leads.list_leads),
    ("GET", "/api/leads/{id}", leads.get_lead),
    ("PATCH", "/api/leads/{id}", leads.change_lead),
    ("GET", "/api/leads/{id}/messages", messages.list_messages),
    ("POST", "/api/leads/{id}/messages", messages.send_message),
    ("GET", "/api/leads/{id}/timeline", timeline.list_timeline),
    ("GET", "/api/tasks", tasks.list_tasks),
    ("GET", "/api/tasks/{id}", tasks.get_task),
    ("PATCH", "/api/tasks/{id}", tasks.change_task),
    ("GET", "/api/missed-calls", missed_calls.list_missed_calls),
    ("GET", "/api/missed-calls/{id}", missed_calls.get_missed_call),
    ("GET", "/api/settings", settings.get_settings),
    ("PATCH", "/api/settings", settings.change_settings),
)


def add_routes(app: web.Application) -> None:
    """Give an application all routes; GET answers HEAD too. What is for development only is nowhere elsewhere."""
    for method, path, handler in ROUTES:
        if path.startswith(DEVELOPMENT) and not app[keys.CONFIG].development:
            continue
        if method == "GET":
            app.router.add_get(path, handler)
        else:
            app.router.add_route(method, path, handler)
