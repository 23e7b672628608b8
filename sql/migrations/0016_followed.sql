-- What began before there was a chase comes to its end as well: its rescues are followed up, its texts on their way are
-- looked up.

-- They are of all tenants, whom their owner may see for as long as this takes; whoever else looks waits.
alter table missed_calls no force row level security;
alter table messages no force row level security;
alter table outbox no force row level security;

update missed_calls as m
set step = x.step
from (
    select
        tenant_id,
        missed_call_id,
        max(step) as step
    from messages
    where missed_call_id is not null
    group by tenant_id, missed_call_id
) as x
where
    m.tenant_id = x.tenant_id and m.id = x.missed_call_id and m.step < x.step
    and m.status in ('queued', 'texted', 'escalated');

insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at)
select m.tenant_id, 'follow_up', 'urgent', m.id, now(), now()
from missed_calls as m
where
    m.status in ('queued', 'texted', 'escalated')
    and not exists (
        select from outbox as o
        where
            o.tenant_id = m.tenant_id and o.subject_id = m.id and o.job = 'follow_up' and o.state in ('open', 'dead')
    );

insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at)
select m.tenant_id, 'send_text', 'urgent', m.id, now(), now()
from messages as m
where
    m.direction = 'outbound' and m.status in ('queued', 'sending')
    and not exists (
        select from outbox as o
        where o.tenant_id = m.tenant_id and o.subject_id = m.id and o.job = 'send_text' and o.state = 'open'
    );

alter table missed_calls force row level security;
alter table messages force row level security;
alter table outbox force row level security;
