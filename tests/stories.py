"""Telling a rescue's story with the clock in hand: calls and texts as providers report them, and jobs when due."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.context import Context, open_context
from jobs.run import Outcome, perform
from ottoai.config import Config
from ottoai.domain import calls, messages
from ottoai.domain.calls import Recorded
from ottoai.domain.reports import record
from ottoai.domain.tenants import by_id
from ottoai.metrics import Metrics
from ottoai.vault import Vault
from tests.conftest import execute, of_tenant

PHONE = "+12125550142"
NOON = datetime(2026, 11, 24, 17, 0, tzinfo=UTC)  # of a Tuesday in New York


@dataclass
class Clock:
    """A clock that stands still until it is set."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Story:
    """One database's story. Jobs run when `until` lets time pass; `outcomes` has what became of them."""

    context: Context
    clock: Clock
    url: str
    tenant: str = "demo"
    outcomes: list[Outcome] = field(default_factory=list)
    _told: int = 0

    async def call(self, phone: str = PHONE, tenant: str = "", **facts: Any) -> Recorded:
        """A call's final report; missed unless `facts` say otherwise. It began now."""
        told = {"direction": "inbound", "answered": False, "started_at": self.clock.now, **facts}
        call_id = told.pop("external_id", None) or f"call-{self._next()}"
        rank = told.pop("rank", 3)
        report = calls.Report(external_id=call_id, rank=rank, facts=calls.Facts(customer_phone=phone, **told))
        return await self._record(report, tenant or self.tenant, "callrail")

    async def text(self, body: str, phone: str = PHONE, *, ours: bool = False, tenant: str = "") -> Recorded:
        """A text from the phone, or by staff through the provider."""
        direction = "outbound" if ours else "inbound"
        told = messages.Text(external_id=f"text-{self._next()}", direction=direction, phone=phone, body=body)
        return await self._record(told, tenant or self.tenant, "callrail")

    async def until(self, moment: datetime | timedelta) -> None:
        """Let time pass, and have each job run when it is due."""
        end = self.clock.now + moment if isinstance(moment, timedelta) else moment
        sql = "select id::text, due_at from outbox where state = 'open' and due_at <= %s order by due_at limit 1"
        while due := execute(self.url, sql, end):
            ((job_id, due_at),) = due
            self.clock.now = max(self.clock.now, due_at)
            outcome = await perform(self.context, str(job_id))
            assert outcome, "a job that is due can be begun"
            self.outcomes.append(outcome)
        self.clock.now = end

    def log(self, like: str = "%") -> list[str]:
        """Names of the events so far."""
        sql = "select event from events where event like %s order by seq"
        return [str(event) for (event,) in of_tenant(self.url, sql, like, tenant=self.tenant)]

    def rescues(self) -> list[tuple[Any, ...]]:
        """(status, ended_by) of every rescue."""
        sql = "select status, ended_by from missed_calls order by called_at, id"
        return of_tenant(self.url, sql, tenant=self.tenant)

    def texts(self) -> list[tuple[Any, ...]]:
        """(step, status) of every text of ours."""
        sql = "select step, status from messages where direction = 'outbound' order by created_at, step"
        return of_tenant(self.url, sql, tenant=self.tenant)

    def tasks(self) -> list[tuple[Any, ...]]:
        """(kind, status) of every task."""
        return of_tenant(self.url, "select kind, status from tasks order by created_at", tenant=self.tenant)

    async def _record(self, report: Any, tenant_id: str, provider: str) -> Recorded:
        config = self.context.config
        tenant = await by_id(self.context.db.system(), Vault(config.secret_keys), tenant_id, provider)
        assert tenant
        delivery = {
            "provider": provider, "kind": type(report).__name__, "variant": str(self._next()), "headers": "{}",
            "body": b"{}", "trace_id": "1" * 32, "trace_context": f"00-{'1' * 32}-{'2' * 16}-01",
        }  # fmt: skip
        return await record(self.context.db.one(tenant_id), report, tenant.hours, self.clock.now, **delivery)

    def _next(self) -> int:
        self._told += 1
        return self._told


@asynccontextmanager
async def telling(config: Config, metrics: Metrics | None = None) -> AsyncIterator[Story]:
    """A story that begins at NOON."""
    clock = Clock()
    async with open_context(config, metrics or Metrics("test", "worker")) as context:
        yield Story(replace(context, clock=clock), clock, config.database_url)
