"""What must be true after a soak: each fact that was told is there once, and every caller got one text for a step."""

from collections import Counter
from collections.abc import Iterator

from tests.chaos.truth import Log
from tests.conftest import execute, of_tenant
from tests.slack import BUSY
from tests.soak.callers import Carrier, Told
from tests.soak.stand import given

# Indicators whose alerts the load itself explains: what is sent is at times poisoned, nobody's, forged or asks for what
# is another tenant's, some links are dark, and with each webhook the pages of its tenant are others.
EXPLAINED = frozenset({
    "cache_hits", "foreign_ids", "webhook_quarantined", "webhook_unclaimed", "webhook_rejected", "ws_lost",
    "ws_heartbeats", "ws_dropped", "ws_slow", "unusual_traffic",
})  # fmt: skip


def fired(url: str) -> Counter[str]:
    """The alerts that fired, and how often."""
    rows = execute(url, "select name, count(*) from alerts where fired_at is not null group by name")
    return Counter({str(name): int(str(count)) for name, count in rows})


def unexplained(url: str) -> Iterator[str]:
    """Alerts that should not have fired."""
    for name in sorted(fired(url)):
        if name.partition(".")[0] not in EXPLAINED | BUSY:
            yield f"{name} fired, and nothing explains it"


def check(url: str, logs: list[Log], told: Told, carrier: Carrier) -> Iterator[str]:
    """What is not as it should be."""
    taken = Counter((message["account_sid"], message["to"]) for message in carrier.taken)
    for number, log in enumerate(logs):
        yield from log.check_written()
        yield from log.check_seen()
        calls = {key: missed for (tenant, key), missed in told.calls.items() if tenant == log.tenant}
        yield from _calls(url, log, calls)
        account = given(number, log.tenant)["twilio_sid"]
        missed = {phone for (sid, phone) in told.missed if sid == account}
        yield from _rescues(url, log, missed, Counter({to: n for (sid, to), n in taken.items() if sid == account}))


def _calls(url: str, log: Log, calls: dict[str, bool]) -> Iterator[str]:
    rows = of_tenant(url, "select external_id, missed from calls", tenant=log.tenant)
    found = Counter(str(external) for external, _ in rows)
    for external, count in found.items():
        if count != 1 or external not in calls:
            yield f"{log.tenant}: call {external} is there {count} times"
    for external, missed in rows:
        if calls.get(str(external)) is not missed:
            yield f"{log.tenant}: call {external} is {'missed' if missed else 'answered'}"
    for external in calls.keys() - found.keys():
        yield f"{log.tenant}: call {external} is not there"
    for event, wanted in (("received", set(calls)), ("missed", {key for key, missed in calls.items() if missed})):
        beginning = f"telephony.call.{event}:"
        seen = {name.removeprefix(beginning): at for name, at in log.places.items() if name.startswith(beginning)}
        for external in wanted ^ seen.keys():
            yield f"{log.tenant}: {event} of {external} is told {len(seen.get(external, ()))} times"
        yield from (f"{log.tenant}: {event} of {name} at {at}" for name, at in seen.items() if len(at) > 1)


def _rescues(url: str, log: Log, missed: set[str], taken: Counter[str]) -> Iterator[str]:
    sql = """
        select l.phone, r.status, count(m.id), count(distinct m.step), min(m.status), max(m.status)
        from missed_calls as r join leads as l on l.id = r.lead_id
        left join messages as m on m.missed_call_id = r.id group by r.id, l.phone, r.status
    """
    rows = of_tenant(url, sql, tenant=log.tenant)
    if Counter(str(row[0]) for row in rows) != Counter(missed):
        yield f"{log.tenant}: {len(missed)} callers were missed, {len(rows)} rescues opened"
    for phone, status, texts, steps, first, last in rows:
        # Who writes back or is spoken to within a second is no longer texted.
        sent = 0 if texts == 0 or first == "cancelled" else 1
        if texts != steps or texts > 1 or taken[str(phone)] != sent or (sent and (first, last) != ("delivered",) * 2):
            yield f"{log.tenant}: {phone} has {texts} texts ({first}, {last}), {taken[str(phone)]} taken; {status}"
        if status != "recovered":
            yield f"{log.tenant}: the rescue of {phone} is {status}"
