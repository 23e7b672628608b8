"""A past for every tenant: as many events of its own kinds as a process keeps in memory. Without it memory would rise
for half an hour until every ring is full, and a leak beside that would not be seen.
"""

import asyncio

from ottoai.realtime.stream import RING_EVENTS
from tests.conftest import of_tenant

PART = 100  # events at once
PAUSE = 0.3

# Copies of what has happened, under a name that no fact has, and about no call.
COPY = """
with facts as (select data, lead_id, row_number() over (order by seq) as n from events),
much as (
    select facts.data - 'external_id' as data, facts.lead_id, i
    from generate_series(1, %s) as i join facts on facts.n = 1 + i %% (select count(*) from facts)
)
select count(*) from append_events(
    %s, '', (select jsonb_agg(jsonb_build_object('event', 'test.past', 'data', data, 'lead_id', lead_id)) from much)
)
"""


async def give_past(url: str, tenants: list[str], *, after: float, events: int = RING_EVENTS) -> None:
    """Append it when something has happened, a part at a time, so that everybody can listen."""
    await asyncio.sleep(after)
    for _ in range(-(-events // PART)):
        for tenant in tenants:
            await asyncio.to_thread(of_tenant, url, COPY, PART, tenant, tenant=tenant)
        await asyncio.sleep(PAUSE)
