"""The story of one comparison: CallRail's list of a tenant's calls against our log, and what the log lacks taken in as
a webhook would have been.

    ask for a page → whose are these calls → what do we know of them → commit what we lack → tell

Nothing here is remembered between two comparisons, and no transaction is open while CallRail is asked. How often, how
far and for whom is the matter of jobs/reconcile and of the command line.
"""

import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from ottoai.domain import calls, outbox, reconciliations, rescue, tenants
from ottoai.domain.calls import Known, Report
from ottoai.domain.reconciliations import Standing
from ottoai.domain.tenants import Access, Tenant
from ottoai.errors import Conflict, InvalidInput, NotFound, ProviderFailed
from ottoai.webhooks import callrail
from ottoai.webhooks.callrail_api import Api
from ottoai.webhooks.callrail_list import COMPANY_ID, Listed, Span, read_call
from ottoai.webhooks.receive import Ingest, quarantine, record

FIRST_LOOK: Final = rescue.WINDOW  # of a tenant that was never compared: what can still be rescued
# Calls that began so recently are looked at again: CallRail finishes a call up to 20 minutes after hang-up and lists it
# by its beginning, so that this is room for those 20 minutes and a long call before them.
OVERLAP: Final = timedelta(hours=2)
HELD: Final = timedelta(hours=6)  # a call that goes on is waited for that long; then it hangs in CallRail's books only
STEP: Final = timedelta(hours=12)  # one list: after an outage of days, each is a few pages and the watermark moves
OLDEST: Final = timedelta(days=30)  # calls before that tell nobody anything; an operator can ask for them
MAX_PAGES: Final = 200  # 50,000 calls in one step: no company has so many, but a server that lies
MAX_UNREADABLE: Final = 20  # calls kept as unreadable in one step; more, and it is the list that is wrong


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What one page brought. All of it is committed. `settled_until`: whatever began before is final and in our log."""

    span: Span
    page: int
    last: bool
    settled_until: datetime
    listed: int = 0
    recovered: int = 0
    corrected: int = 0
    quarantined: int = 0
    ongoing: int = 0
    foreign: int = 0


COUNTED: Final = ("listed", "recovered", "corrected", "quarantined", "ongoing", "foreign")


class Counts(msgspec.Struct):
    """The same, while it is being counted. `jobs`: what is to be enqueued."""

    recovered: int = 0
    corrected: int = 0
    quarantined: int = 0
    ongoing: int = 0
    foreign: int = 0


def spans(since: datetime, until: datetime) -> Iterator[Span]:
    """The time from `since` to `until` in steps, oldest first."""
    while since < until:
        end = min(since + STEP, until)
        yield Span(since, end)
        since = end


class Settled:
    """How far lists, one after the other and as far as they were read, settle the past."""

    def __init__(self) -> None:
        self._open: datetime | None = None  # when the oldest call began that goes on

    def begin(self, span: Span) -> None:
        """The next list."""
        self._span = span
        self._reached = span.since - timedelta(minutes=1)  # a list is asked for from a whole minute on
        self._ordered = True

    def add(self, call: Listed, *, ongoing: bool, now: datetime) -> None:
        """A call that was listed; `ongoing`: and that will have to be looked at again."""
        if call.started_at is None:
            return
        self._ordered &= call.started_at >= self._reached
        self._reached = max(self._reached, call.started_at)
        if ongoing and call.started_at > now - HELD:
            self._open = min(self._open or call.started_at, call.started_at)

    def until(self, now: datetime, *, last: bool) -> datetime:
        """What began before is settled. Of a list that is not in order, only its end says anything."""
        reached = self._span.until if last else self._reached if self._ordered else self._span.since
        return min(reached, now - OVERLAP, self._open or reached)


class Comparison:
    """The comparison of one tenant's calls. `companies`: those that proved to be the tenant's, to be remembered."""

    def __init__(self, ingest: Ingest, api: Api, tenant: Tenant, access: Access, standing: Standing) -> None:
        self._ingest = ingest
        self._api = api
        self._tenant = tenant
        self._access = access
        self._at = standing.at
        self._began = time.monotonic()
        registered = {company for company in access.companies if company.startswith(COMPANY_ID)}
        self._registered = bool(registered)
        self._settled = Settled()
        self._selected = min(registered) if len(registered) == 1 else None
        self.companies = registered or set(standing.companies)
        self.since = max(standing.settled_until or self._at - FIRST_LOOK, self._at - OLDEST)

    def now(self) -> datetime:
        """The time by the database's clock, with which what is known of a call is dated."""
        return self._at + timedelta(seconds=time.monotonic() - self._began)

    async def read(self, span: Span) -> AsyncGenerator[Progress, None]:
        """Compare one list, page by page. Raises ProviderFailed, StoreUnavailable; what was yielded stays."""
        seen: set[str] = set()
        self._settled.begin(span)
        unreadable = 0
        for number in range(1, MAX_PAGES + 1):
            as_of = self.now()
            page = await self._api.calls(self._access, span, number, self._selected)
            listed = [read_call(call, as_of) for call in page.calls]
            new = [call for call in listed if call.id not in seen]
            if listed and not new:
                raise ProviderFailed("invalid", "CallRail's pages repeat each other.")
            seen.update(call.id for call in new)
            counts = await self._take(new, as_of)
            unreadable += counts.quarantined
            if unreadable > MAX_UNREADABLE:
                raise ProviderFailed("invalid", "CallRail's calls cannot be read; see those in quarantine.")
            last = page.is_last(number)
            yield Progress(
                span=span, page=number, last=last, listed=len(listed),
                settled_until=self._settled.until(as_of, last=last), **msgspec.structs.asdict(counts),
            )  # fmt: skip
            if last:
                return
        raise ProviderFailed("invalid", f"CallRail's list has no end ({MAX_PAGES} pages).")

    async def _take(self, listed: Sequence[Listed], as_of: datetime) -> Counts:
        """Commit what is lacking of these calls, in their order."""
        system, one = self._ingest.db.system(), self._ingest.db.one(self._tenant.id)
        owners = await tenants.owners(system, callrail.NAME, sorted({name for call in listed for name in _names(call)}))
        told = [call.delivery.report for call in listed if call.delivery]
        reports = [report for report in told if isinstance(report, Report)]
        known = iter(await calls.compare(one, callrail.NAME, reports))
        pairs = [(call, next(known) if call.delivery else None) for call in listed]
        self._learn(pairs, owners)
        counts = Counts()
        jobs: list[outbox.Due] = []
        try:
            for call, knowledge in pairs:
                ours = self._is_ours(call, owners)
                ongoing = ours and knowledge is not None and not call.ended
                self._settled.add(call, ongoing=ongoing, now=as_of)
                counts.foreign += not ours
                counts.ongoing += ongoing
                if ours and not ongoing:
                    jobs += await self._commit(call, knowledge, as_of, counts)
        finally:
            # After all of them: a later call may tell that the caller of a missed one has been reached since.
            self._ingest.waker.wake(jobs)
        return counts

    async def _commit(
        self, call: Listed, known: Known | None, as_of: datetime, counts: Counts
    ) -> tuple[outbox.Due, ...]:
        if known is None or call.delivery is None:
            return await self._keep(call, call.error, counts)
        if not known.lacks:
            return ()
        # Of the same facts about the same version of the call there is one: who reads them twice changes nothing. With
        # the version, a change that was taken back is a change all the same.
        delivery = msgspec.structs.replace(call.delivery, variant=f"{call.delivery.variant}-{known.version}")
        try:
            session = self._ingest.db.one(self._tenant.id)
            recorded = await record(session, self._tenant, call.raw, delivery, as_of)
        except (Conflict, InvalidInput) as error:  # one call that cannot be stored must not hold back all later ones
            return await self._keep(call, error.detail, counts)
        self._ingest.bus.publish(recorded.appended)
        if recorded.fresh and known.version:
            counts.corrected += 1
        elif recorded.fresh:
            counts.recovered += 1
        return recorded.jobs

    async def _keep(self, call: Listed, error: str, counts: Counts) -> tuple[outbox.Due, ...]:
        receipt = await quarantine(self._ingest, self._tenant, call.raw, error)
        counts.quarantined += receipt.status == "quarantined"
        return ()

    def _learn(self, pairs: Sequence[tuple[Listed, Known | None]], owners: Mapping[str, str]) -> None:
        """Which of the account's companies are the tenant's. A token may list the calls of many, and to take a foreign
        one's in would text its callers in the tenant's name. A call proves it that came to a number of the tenant's, or
        that a webhook, signed with the tenant's key, told of.
        """
        if self._registered:
            return
        for call, known in pairs:
            theirs = owners.get(f"company:{call.company}", self._tenant.id) != self._tenant.id
            proof = (known and known.reported) or owners.get(f"number:{call.number}") == self._tenant.id
            if call.company and proof and not theirs:
                self.companies.add(call.company)
        if not self.companies:
            named = {call.company for call, _ in pairs if call.company and not _owner(call, owners)}
            if len(named) > 1:
                detail = "The account has several companies. Say which is the tenant's: --callrail-company COM…"
                raise ProviderFailed("ambiguous", detail)

    def _is_ours(self, call: Listed, owners: Mapping[str, str]) -> bool:
        owner = _owner(call, owners)
        if owner:
            return owner == self._tenant.id
        return not call.company or not self.companies or call.company in self.companies


async def by_hand(ingest: Ingest, api: Api, tenant_id: str) -> Comparison:
    """A comparison that an operator asks for: it begins where the next periodic one would. Raises NotFound,
    InvalidInput.
    """
    access = await tenants.access(ingest.db.system(), ingest.vault, tenant_id, callrail.NAME)
    tenant = await tenants.by_id(ingest.db.system(), ingest.vault, tenant_id, callrail.NAME)
    if tenant is None:
        raise NotFound(f"There is no tenant {tenant_id}.")
    if access is None:
        raise InvalidInput(
            f"{tenant_id} needs an account and a token: tenant set --callrail-account --callrail-api-token"
        )
    standing = await reconciliations.stand(ingest.db.one(tenant_id), access.account)
    return Comparison(ingest, api, tenant, access, standing)


def _names(call: Listed) -> list[str]:
    company, number = f"company:{call.company}", f"number:{call.number}"
    return [name for name, told in ((company, call.company), (number, call.number)) if told and "\x00" not in told]


def _owner(call: Listed, owners: Mapping[str, str]) -> str | None:
    return owners.get(f"company:{call.company}") or owners.get(f"number:{call.number}")
