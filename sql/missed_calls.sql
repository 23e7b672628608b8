-- Missed calls and their rescue.

-- name: hours_of^
-- What decides when the caller may be texted.
select
    l.phone,
    t.hours,
    t.timezone
from missed_calls as m
inner join leads as l on m.tenant_id = l.tenant_id and m.lead_id = l.id
inner join tenants as t on m.tenant_id = t.id
where m.tenant_id = :tenant_id and m.id = :id;

-- name: begin_text^
-- Begins the first text of a rescue: writes down that it is being sent, before it is. Nothing is returned when the
-- rescue no longer wants it. `begun_before` says that an earlier attempt got this far, so that the carrier has to be
-- asked what became of it. `{company}` in the template is the tenant's name.
with
rescue as (
    select m.*, l.phone
    from missed_calls as m
    inner join leads as l on m.tenant_id = l.tenant_id and m.lead_id = l.id
    inner join calls as c on m.tenant_id = c.tenant_id and m.call_id = c.id
    where
        m.tenant_id = :tenant_id and m.id = :id and m.status = 'queued'
        and c.missed -- a later report may have said that somebody answered
    for update of m
),

message as (
    insert into messages as known (
        tenant_id, lead_id, missed_call_id, step, direction, status, sender, body
    )
    select :tenant_id, r.lead_id, r.id, 1, 'outbound', 'sending', :sender, replace(:template, '{company}', t.name)
    from rescue as r, tenants as t
    where t.id = :tenant_id
    on conflict (tenant_id, missed_call_id, step) do update set status = known.status -- to have it returned
    returning known.*, known.xmax <> 0 as begun_before
)

select
    m.id::text,
    r.phone as recipient,
    m.body,
    m.begun_before
from message as m, rescue as r
where m.status = 'sending';

-- name: finish_text^
-- Writes down that the text went out, once: closes the job and appends the events. Returns epoch and events.
with
closed as (
    update outbox set state = 'done', finished_at = now(), leased_until = null
    where tenant_id = :tenant_id and id = :job_id and state = 'open'
),

message as (
    update messages set status = 'sent', provider_id = :provider_id, sent_at = now()
    where tenant_id = :tenant_id and id = :message_id and status = 'sending'
    returning messages.*, message_json(messages) as shape
),

rescue as (
    update missed_calls as c set status = 'texted', updated_at = now(), version = c.version + 1
    from message as m
    where c.tenant_id = :tenant_id and c.id = m.missed_call_id and c.status = 'queued'
    returning c.*, missed_call_json(c) as shape
),

drafts (place, event, lead_id, data) as (
    select 1, 'telephony.sms.sent', lead_id, shape from message
    union all
    select 2, 'missed_call.texted', lead_id, shape from rescue
)

select
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(
            :tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d) - 'place' order by d.place) from drafts as d)
        ) as e
    ) as events;

-- name: get_missed_call^
-- One missed call as clients see it: `item` as JSON text, and its `version`. Nothing when the tenant has no such one.
select
    missed_call_json(m)::text as item,
    m.version
from missed_calls as m
where m.tenant_id = :tenant_id and m.id = :id;

-- name: list_missed_calls^
-- A page of missed calls, newest first; see list_calls.
with page as (
    select
        missed_call_json(m)::text as item,
        m.called_at as at,
        m.id,
        row_number() over (order by m.called_at desc, m.id desc) as n
    from missed_calls as m
    where
        m.tenant_id = :tenant_id
        and (m.called_at, m.id) < (:after_at::timestamptz, :after_id::uuid)
        and (:status::text is null or m.status = :status)
        and (:lead_id::uuid is null or m.lead_id = :lead_id::uuid)
        and (:since::timestamptz is null or m.called_at >= :since::timestamptz)
        and (:until::timestamptz is null or m.called_at < :until::timestamptz)
    order by m.called_at desc, m.id desc
    limit :page_size + 1
)

select
    string_agg(item, ',' order by n) filter (where n <= :page_size) as items,
    max(at) filter (where n = :page_size) as last_at,
    max(id::text) filter (where n = :page_size) as last_id,
    coalesce(max(n) > :page_size, false) as more
from page;
