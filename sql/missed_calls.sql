-- Missed calls and their rescue.

-- name: rescue_to_follow^
-- All that decides about a rescue and its texts at a moment. `texted_elsewhere`: another rescue of the lead has texted
-- within :apart before it; no message is too young for that, since workers' clocks differ. `reached`: what has reached
-- the caller since the call, though it was reported before the call was, so that it ended nothing.
select
    m.status,
    m.step,
    m.called_at,
    m.untextable,
    m.version,
    l.phone,
    c.missed,
    t.name as company,
    t.hours,
    t.timezone,
    t.holidays,
    t.sla_minutes,
    t.texts_enabled,
    t.first_text,
    t.follow_up_text,
    exists(
        select from opt_outs as o
        where o.tenant_id = :tenant_id and o.digest = phone_digest(:tenant_id, l.phone)
    ) as opted_out,
    exists(
        select from messages as x
        where
            x.tenant_id = :tenant_id and x.lead_id = m.lead_id and x.missed_call_id <> m.id
            and x.status in ('queued', 'sending', 'sent', 'delivered', 'unknown')
            and x.created_at > :now::timestamptz - :apart::interval
    ) as texted_elsewhere,
    coalesce(
        (
            select case when x.direction = 'outbound' then 'outbound_call' else 'answered_call' end
            from calls as x
            where
                x.tenant_id = :tenant_id and x.lead_id = m.lead_id and x.id <> m.call_id and x.started_at >= m.called_at
                and (x.direction = 'outbound' or (x.status = 'completed' and x.answered and x.voicemail is not true))
            order by x.started_at
            limit 1
        ),
        (
            select 'outbound_text'
            from messages as x
            where
                x.tenant_id = :tenant_id and x.lead_id = m.lead_id and x.created_at >= m.called_at
                and x.direction = 'outbound' and x.missed_call_id is null
            limit 1
        )
    ) as reached
from missed_calls as m
inner join leads as l on m.tenant_id = l.tenant_id and m.lead_id = l.id
inner join calls as c on m.tenant_id = c.tenant_id and m.call_id = c.id
inner join tenants as t on m.tenant_id = t.id
where m.tenant_id = :tenant_id and m.id = :id;

-- name: advance_rescue^
-- Carries out what was decided about a rescue as it was at :version and :step_before: writes the text down and stages its
-- sending, escalates, asks staff, ends, stages the next decision, closes the job of this one, appends the events.
-- `advanced` is false, and nothing happened, when the rescue has changed meanwhile, when the job is another worker's by
-- now (:attempts), or when another rescue of the lead has texted: two that fall due together at an opening are decided
-- about together. The lock before it, for decisions to text or to ask staff, has the second see what the first wrote.
-- Returns besides what record_report returns: epoch, events, jobs.
select 1
from leads as l inner join missed_calls as m on l.tenant_id = m.tenant_id and l.id = m.lead_id
where m.tenant_id = :tenant_id and m.id = :id and (:text_step::smallint is not null or :call_back)
for no key update of l;
with
known as (
    select
        m.id,
        m.text_due_at
    from missed_calls as m
    where
        m.tenant_id = :tenant_id and m.id = :id and m.version = :version and m.step = :step_before
        and exists (
            select from outbox as j
            where j.tenant_id = :tenant_id and j.id = :job_id and j.state = 'open' and j.attempts = :attempts
        )
        and (
            :text_step::smallint is null
            or not exists (
                select from messages as x -- as in rescue_to_follow
                where
                    x.tenant_id = :tenant_id and x.lead_id = m.lead_id and x.missed_call_id <> m.id
                    and x.status in ('queued', 'sending', 'sent', 'delivered', 'unknown')
                    and x.created_at > :now::timestamptz - :apart::interval
            )
        )
),

moved as (
    update missed_calls as m
    set
        status = case
            when :ends::text is null then case when :escalate then 'escalated' else m.status end
            when :ends::text = 'stop' then 'opted_out'
            when :ends::text = 'time' then 'expired'
            else 'recovered'
        end,
        step = :step,
        -- A text that is on its way is the one that is due until it has gone out.
        text_due_at = case when :text_step::smallint is null then :text_due_at::timestamptz else m.text_due_at end,
        escalated_at = case when :escalate then :now::timestamptz else m.escalated_at end,
        ended_at = case when :ends::text is not null then :now::timestamptz end,
        ended_by = :ends::text,
        updated_at = now(),
        version = m.version + case
            when
                :ends::text is not null or :escalate
                or (:text_step::smallint is null and m.text_due_at is distinct from :text_due_at::timestamptz)
                then 1
            else 0
        end
    from known as k
    where m.tenant_id = :tenant_id and m.id = k.id and m.version = :version and m.step = :step_before
    returning m.id, m.lead_id, m.status, missed_call_json(m) as shape, m.version > :version as changed
),

closed as (
    update outbox set state = 'done', finished_at = now(), leased_until = null
    where
        tenant_id = :tenant_id and id = :job_id and state = 'open' and attempts = :attempts
        and exists (select from moved)
),

text as (
    insert into messages (tenant_id, lead_id, missed_call_id, step, direction, status, body, created_at)
    select :tenant_id, m.lead_id, m.id, :text_step::smallint, 'outbound', 'queued', :body::text, :now::timestamptz
    from moved as m
    where :text_step::smallint is not null
    on conflict (tenant_id, missed_call_id, step) do nothing
    returning id, lead_id, message_json(messages) as shape
),

task as (
    insert into tasks (tenant_id, lead_id, kind, subject_id, title, created_at, updated_at)
    select
        :tenant_id, m.lead_id, 'call_back', m.id, 'Call back: ' || coalesce(l.name, l.phone), :now::timestamptz,
        :now::timestamptz
    from moved as m inner join leads as l on l.tenant_id = :tenant_id and m.lead_id = l.id
    where
        :call_back
        and not exists (
            select from tasks as t
            where t.tenant_id = :tenant_id and t.lead_id = m.lead_id and t.kind = 'call_back' and t.status = 'open'
        )
    on conflict (tenant_id, kind, subject_id) do nothing
    returning lead_id, task_json(tasks) as shape
),

staged as (
    insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at, trace_context)
    select :tenant_id, 'send_text', 'urgent', x.id, :now::timestamptz, now() + :repair_after::interval, :trace_context
    from text as x
    union all
    select
        :tenant_id, 'follow_up', 'urgent', m.id, :again_at::timestamptz,
        greatest(:again_at::timestamptz, now() + :repair_after::interval), :trace_context
    from moved as m
    where :again_at::timestamptz is not null
    returning id, queue, tenant_id, job
),

drafts (place, event, severity, lead_id, data) as (
    select 1, 'telephony.sms.status', 'info', x.lead_id, x.shape from text as x
    union all
    select 2,
        case
            when :ends::text is not null then 'missed_call.' || m.status
            when :escalate then 'missed_call.escalated'
            else 'missed_call.updated'
        end,
        case when :escalate then 'warning' else 'info' end, m.lead_id, m.shape
    from moved as m
    where m.changed
    union all
    select 3, 'task.created', 'info', t.lead_id, t.shape from task as t
)

select
    exists(select from moved) as advanced,
    (
        select coalesce(jsonb_agg(jsonb_build_object('id', j.id, 'queue', j.queue, 'tenant_id', j.tenant_id)), '[]')::text
        from staged as j
        where j.job = 'send_text'
    ) as jobs,
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
