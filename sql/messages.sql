-- Text messages, and the development sender's memory.

-- name: record_text^
-- One delivery about one text message, whole, as record_report does it for calls: claims its idempotency key, keeps its
-- payload, touches the lead, writes the message down once, and brings about what follows from it: a reply or a text of
-- staff ends the lead's rescues, a carrier's word (:word, see optout.py) opts the number out or in again. The lock before
-- it holds back other deliveries about the same message. A repeated delivery changes nothing, nor does another one about
-- a known message. Returns what record_report does.
select pg_advisory_xact_lock(hashtextextended(:tenant_id || chr(31) || :provider || chr(31) || :external_id, 0));
with
claim as (
    insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, trace_id)
    values (:tenant_id, :provider, :kind, :external_id, :variant, 'processed', :trace_id)
    on conflict do nothing
    returning id
),

payload as (
    insert into payloads (idempotency_key_id, tenant_id, headers, body)
    select id, :tenant_id, :headers::jsonb, :body::bytea from claim
),

told as (
    select
        :text_phone as phone,
        :text_name::text as name,
        :text_direction as direction,
        coalesce(:text_sent_at::timestamptz, :received_at::timestamptz) as at
    from claim
    where not exists (
        select from messages as m
        where m.tenant_id = :tenant_id and m.sender = :provider and m.provider_id = :external_id
    )
),

known_lead as (
    select lead_json(l) - 'version' as shape from told as t, leads as l
    where l.tenant_id = :tenant_id and l.phone = t.phone
),

saved_lead as (
    insert into leads as l (tenant_id, phone, name, last_contact_at)
    select :tenant_id, phone, name, at from told
    on conflict (tenant_id, phone) do update set
        name = coalesce(case when l.named_by is null then excluded.name end, l.name), -- staff knows better
        last_contact_at = greatest(l.last_contact_at, excluded.last_contact_at),
        version = l.version + (
            (
                coalesce(case when l.named_by is null then excluded.name end, l.name),
                greatest(l.last_contact_at, excluded.last_contact_at)
            ) is distinct from (l.name, l.last_contact_at)
        )::integer
    returning l.id, lead_json(l) as shape, l.xmax = 0 as created
),

message as (
    insert into messages (tenant_id, lead_id, direction, status, sender, provider_id, body, created_at, sent_at)
    select
        :tenant_id, l.id, t.direction, case when t.direction = 'inbound' then 'received' else 'sent' end, :provider,
        :external_id, :text_body, t.at, case when t.direction = 'outbound' then t.at end
    from told as t, saved_lead as l
    returning messages.*, message_json(messages) as shape
),

opt_out as (
    insert into opt_outs (tenant_id, digest, source)
    select :tenant_id, phone_digest(:tenant_id, :text_phone), 'text'
    from message as m
    where m.direction = 'inbound' and :word = 'stop'
    on conflict do nothing
),

opt_in as (
    delete from opt_outs as o
    using message as m
    where
        m.direction = 'inbound' and :word in ('start', 'yes')
        and o.tenant_id = :tenant_id and o.digest = phone_digest(:tenant_id, :text_phone)
    returning o.digest
),

-- What the text means to the lead's rescues; null: nothing.
meant as (
    select
        m.lead_id,
        m.created_at as at,
        case
            when m.direction = 'outbound' then 'outbound_text'
            when :word = 'stop' then 'stop'
            when :word in ('start', 'help') then null
            -- «yes» opts in whoever had opted out, and is an answer of everybody else.
            when :word = 'yes' and exists (select from opt_in) then null
            else 'reply'
        end as why
    from message as m
),

ended as (
    select
        e.status,
        e.lead_id,
        missed_call_json(e) as shape
    from meant as x, lateral end_rescues(:tenant_id, x.lead_id, x.at, x.why) as e
    where x.why is not null
),

called_back as (
    select
        t.lead_id,
        t.assigned_to,
        task_json(t) as shape
    from meant as x, lateral close_tasks(:tenant_id, 'call_back', x.lead_id, x.at) as t
    where x.why = 'outbound_text'
),

drafts (place, event, lead_id, user_id, data) as (
    select 1, case when l.created then 'lead.created' else 'lead.updated' end, l.id, null, l.shape
    from saved_lead as l left join known_lead as k on true
    where l.created or l.shape - 'version' is distinct from k.shape
    union all
    select 2, case when m.direction = 'inbound' then 'telephony.sms.received' else 'telephony.sms.sent' end,
        m.lead_id, null, m.shape
    from message as m
    union all
    select 3, 'missed_call.' || e.status, e.lead_id, null, e.shape from ended as e
    union all
    select 4, 'task.updated', t.lead_id, t.assigned_to, t.shape from called_back as t
)

select
    :tenant_id as tenant_id,
    exists(select from claim) as fresh,
    '[]' as jobs,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(
            :tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d) - 'place' order by d.place) from drafts as d)
        ) as e
    ) as events;

-- name: record_text_status^
-- One delivery about what became of a text that was sent. Statuses come in any order: the message takes the furthest, and
-- a message that nobody knows stays unknown. It is found by the carrier's id, or by ours (:message_id) while the carrier's
-- is not known: so a text whose fate was unknown turns out to have been sent. `untextable`, `opts_out`: as in
-- text_given_up. Returns what record_report does.
with
claim as (
    insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, trace_id)
    values (:tenant_id, :provider, :kind, :external_id, :variant, 'processed', :trace_id)
    on conflict do nothing
    returning id
),

payload as (
    insert into payloads (idempotency_key_id, tenant_id, headers, body)
    select id, :tenant_id, :headers::jsonb, :body::bytea from claim
),

furthest as (
    select array['sending', 'unknown', 'sent', 'failed', 'undelivered', 'delivered'] as steps
),

known as (
    select
        m.id,
        m.status
    from claim, messages as m
    where
        m.tenant_id = :tenant_id and m.sender = :provider
        and (
            m.provider_id = :external_id
            or (m.id = :message_id::uuid and m.provider_id is null and m.direction = 'outbound')
        )
    for update of m -- another report of it waits, and meets what this one makes of it
),

message as (
    update messages as m
    set
        status = :status,
        error_code = :error_code,
        provider_id = :external_id,
        sent_at = coalesce(m.sent_at, :received_at::timestamptz),
        version = m.version + 1
    from known as k, furthest as f
    where
        m.tenant_id = :tenant_id and m.id = k.id
        and array_position(f.steps, m.status) < array_position(f.steps, :status) -- no step: it was received
    returning m.id, m.lead_id, m.missed_call_id, k.status as before, message_json(m) as shape
),

-- Of a text that is still being handed over, its job writes that the caller was texted.
texted as (
    update missed_calls as r
    set
        status = case when r.status = 'queued' and m.before = 'unknown' then 'texted' else r.status end,
        first_text_at = case
            when m.before = 'unknown' then coalesce(r.first_text_at, :received_at::timestamptz)
            else r.first_text_at
        end,
        untextable = r.untextable or :untextable,
        updated_at = now(),
        version = r.version + (m.before = 'unknown')::integer
    from message as m
    where
        r.tenant_id = :tenant_id and r.id = m.missed_call_id and r.status in ('queued', 'texted', 'escalated')
        and (m.before = 'unknown' or :untextable) and not :opts_out
    returning r.id, r.lead_id, m.before, missed_call_json(r) as shape
),

hurried as (
    update outbox as j set due_at = now(), enqueue_at = now()
    from texted as r
    where
        :untextable and j.tenant_id = :tenant_id and j.subject_id = r.id and j.job = 'follow_up' and j.state = 'open'
),

opted_out as (
    insert into opt_outs (tenant_id, digest, source)
    select :tenant_id, phone_digest(:tenant_id, l.phone), 'carrier'
    from message as m inner join leads as l on l.tenant_id = :tenant_id and m.lead_id = l.id
    where :opts_out
    on conflict do nothing
),

ended as (
    select
        e.status,
        e.lead_id,
        missed_call_json(e) as shape
    from message as m, lateral end_rescues(:tenant_id, m.lead_id, :received_at::timestamptz, 'stop') as e
    where :opts_out
),

checked as (
    update tasks as t
    set status = 'done', completed_at = :received_at::timestamptz, updated_at = now(), version = t.version + 1
    from message as m
    where
        t.tenant_id = :tenant_id and t.kind = 'check_text' and t.subject_id = m.id and t.status = 'open'
        and m.before = 'unknown'
    returning t.lead_id, t.assigned_to, task_json(t) as shape
),

drafts (place, event, lead_id, user_id, data) as (
    select 1, 'telephony.sms.status', lead_id, null, shape from message
    union all
    select 2, 'missed_call.texted', lead_id, null, shape from texted where before = 'unknown'
    union all
    select 3, 'missed_call.' || status, lead_id, null, shape from ended
    union all
    select 4, 'task.updated', lead_id, assigned_to, shape from checked
)

select
    :tenant_id as tenant_id,
    exists(select from claim) as fresh,
    '[]' as jobs,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(
            :tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d) - 'place' order by d.place) from drafts as d)
        ) as e
    ) as events;

-- name: text_to_send^
-- A text of ours that may be on its way, with all that decides about it. `wanted`: what asked for it still wants it;
-- the rescue's columns are null for a text that staff wrote.
select
    m.id::text,
    m.status,
    m.step,
    m.body,
    m.sender,
    m.provider_id,
    m.begun_at,
    m.created_at as decided_at,
    l.phone as recipient,
    t.hours,
    t.timezone,
    t.holidays,
    t.sla_minutes,
    t.texts_enabled,
    r.status as rescue_status,
    r.step as rescue_step,
    r.called_at,
    r.untextable,
    (r.id is null or (r.status in ('queued', 'texted', 'escalated') and c.missed and t.texts_enabled)) as wanted,
    exists(
        select from opt_outs as o
        where o.tenant_id = :tenant_id and o.digest = phone_digest(:tenant_id, l.phone)
    ) as opted_out
from messages as m
inner join leads as l on m.tenant_id = l.tenant_id and m.lead_id = l.id
inner join tenants as t on m.tenant_id = t.id
left join missed_calls as r on m.tenant_id = r.tenant_id and m.missed_call_id = r.id
left join calls as c on r.tenant_id = c.tenant_id and r.call_id = c.id
where m.tenant_id = :tenant_id and m.id = :id and m.direction = 'outbound';

-- name: begin_text$
-- Writes down that a text is being handed to a carrier, before it is; null when it no longer waits for that, when a
-- reply, a takeover or an opt-out has come between, or when the job is another worker's by now (:attempts).
update messages as m
set status = 'sending', sender = :sender, begun_at = :now::timestamptz
where
    m.tenant_id = :tenant_id and m.id = :id and m.status = 'queued'
    and exists (
        select from outbox as j
        where j.tenant_id = :tenant_id and j.id = :job_id and j.state = 'open' and j.attempts = :attempts
    )
    and (
        m.missed_call_id is null
        or exists (
            select from missed_calls as r
            where r.tenant_id = :tenant_id and r.id = m.missed_call_id and r.status in ('queued', 'texted', 'escalated')
        )
    )
    and not exists (
        select from leads as l inner join opt_outs as o
            on l.tenant_id = o.tenant_id and o.digest = phone_digest(:tenant_id, l.phone)
        where l.tenant_id = :tenant_id and l.id = m.lead_id
    )
returning m.id::text;

-- name: unbegin_text!
-- The carrier certainly did not take the text: it waits again, unless another attempt has it in hand by now.
update messages set status = 'queued', begun_at = null
where
    tenant_id = :tenant_id and id = :id and status = 'sending'
    and exists (
        select from outbox as j
        where j.tenant_id = :tenant_id and j.id = :job_id and j.state = 'open' and j.attempts = :attempts
    );

-- name: text_sent^
-- Writes down that a carrier took the text, once: closes the job, moves the rescue, appends the events. The carrier may
-- have told more of it before. Returns epoch and events.
with
closed as (
    update outbox set state = 'done', finished_at = now(), leased_until = null
    where tenant_id = :tenant_id and id = :job_id and state = 'open' and attempts = :attempts
    returning id
),

message as (
    update messages as m
    set
        status = case when m.status = 'sending' then 'sent' else m.status end,
        provider_id = :provider_id,
        sent_at = coalesce(m.sent_at, :now::timestamptz),
        version = m.version + 1
    from closed
    where m.tenant_id = :tenant_id and m.id = :id
    returning m.lead_id, m.missed_call_id, message_json(m) as shape
),

rescue as (
    update missed_calls as r
    set
        status = case when r.status = 'queued' then 'texted' else r.status end,
        text_due_at = :text_due_at::timestamptz,
        first_text_at = coalesce(r.first_text_at, :now::timestamptz),
        updated_at = now(),
        version = r.version + 1
    from message as m
    where
        r.tenant_id = :tenant_id and r.id = m.missed_call_id and r.status in ('queued', 'texted', 'escalated')
    returning r.lead_id, missed_call_json(r) as shape
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

-- name: text_given_up^
-- Writes down that a text will not be sent (any more), once: closes the job with :job_state, appends the events.
-- :status is cancelled, failed or unknown. Of the last two staff gets a task, if the text was theirs or its fate is not
-- known. `untextable`: the number can get no texts, so that its rescue goes to staff; `opts_out`: it wants none.
-- `text_due_at`: when the rescue's next text is due. Returns epoch and events.
with
closed as (
    update outbox
    set state = :job_state, error = :error, traceback = :traceback, finished_at = now(), leased_until = null
    where tenant_id = :tenant_id and id = :job_id and state = 'open' and attempts = :attempts
    returning *
),

message as (
    update messages as m
    set status = :status, error_code = :error_code, version = m.version + 1
    from closed
    where m.tenant_id = :tenant_id and m.id = :id and m.status in ('queued', 'sending')
    returning m.id, m.lead_id, m.missed_call_id, m.author, message_json(m) as shape
),

opted_out as (
    insert into opt_outs (tenant_id, digest, source)
    select :tenant_id, phone_digest(:tenant_id, l.phone), 'carrier'
    from message as m inner join leads as l on l.tenant_id = :tenant_id and m.lead_id = l.id
    where :opts_out
    on conflict do nothing
),

ended as (
    select
        e.status,
        e.lead_id,
        missed_call_json(e) as shape
    from message as m, lateral end_rescues(:tenant_id, m.lead_id, :now::timestamptz, 'stop') as e
    where :opts_out
),

-- A rescue that goes on waits for its next text.
rescue as (
    update missed_calls as r
    set
        untextable = r.untextable or :untextable,
        text_due_at = :text_due_at::timestamptz,
        updated_at = now(),
        version = r.version + (r.text_due_at is distinct from :text_due_at::timestamptz)::integer
    from message as m, missed_calls as before
    where
        r.tenant_id = :tenant_id and r.id = m.missed_call_id and r.status in ('queued', 'texted', 'escalated')
        and not :opts_out and before.tenant_id = :tenant_id and before.id = r.id
    returning r.id, r.lead_id, r.version > before.version as changed, missed_call_json(r) as shape
),

hurried as (
    update outbox as j set due_at = now(), enqueue_at = now()
    from rescue as r
    where
        :untextable and j.tenant_id = :tenant_id and j.subject_id = r.id and j.job = 'follow_up' and j.state = 'open'
),

task as (
    insert into tasks (tenant_id, lead_id, kind, subject_id, title, assigned_to, created_at, updated_at)
    select
        :tenant_id, m.lead_id, 'check_text', m.id,
        case
            when :status = 'unknown' then 'Ask whether a text arrived, nobody can tell: '
            else 'A text could not be sent: '
        end || coalesce(l.name, l.phone),
        m.author, :now::timestamptz, :now::timestamptz
    from message as m inner join leads as l on l.tenant_id = :tenant_id and m.lead_id = l.id
    where :status = 'unknown' or (:status = 'failed' and m.missed_call_id is null)
    on conflict (tenant_id, kind, subject_id) do nothing
    returning lead_id, assigned_to, task_json(tasks) as shape
),

drafts (place, event, severity, lead_id, user_id, data) as (
    select 1, 'telephony.sms.status', 'info', m.lead_id, null, m.shape from message as m
    union all
    select 2, 'missed_call.' || e.status, 'info', e.lead_id, null, e.shape from ended as e
    union all
    select 2, 'missed_call.updated', 'info', r.lead_id, null, r.shape from rescue as r where r.changed
    union all
    select 3, 'task.created', 'warning', t.lead_id, t.assigned_to, t.shape from task as t
    union all
    select 4, 'worker.task.failed', 'critical', null, null,
        jsonb_build_object('id', c.id, 'job', c.job, 'queue', c.queue, 'attempts', c.attempts)
    from closed as c
    where :job_state = 'dead'
)

select
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(
            :tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d) - 'place' order by d.place) from drafts as d)
        ) as e
    ) as events;

-- name: record_development_text!
-- Notes a text as sent; the same message is noted once.
insert into development_texts (message_id, tenant_id, recipient, body)
values (:message_id, :tenant_id, :recipient, :body)
on conflict do nothing;

-- name: find_development_text$
-- Whether this message was noted.
select true from development_texts where tenant_id = :tenant_id and message_id = :message_id;

-- name: list_messages^
-- A page of a lead's texts, newest first; see list_calls. `known`: whether there is such a lead.
with page as (
    select
        message_json(m)::text as item,
        m.created_at as at,
        m.id,
        row_number() over (order by m.created_at desc, m.id desc) as n
    from messages as m
    where
        m.tenant_id = :tenant_id and m.lead_id = :lead_id::uuid
        and (m.created_at, m.id) < (:after_at::timestamptz, :after_id::uuid)
    order by m.created_at desc, m.id desc
    limit :page_size + 1
)

select
    exists(select from leads where tenant_id = :tenant_id and id = :lead_id::uuid) as known,
    string_agg(item, ',' order by n) filter (where n <= :page_size) as items,
    max(at) filter (where n = :page_size) as last_at,
    max(id::text) filter (where n = :page_size) as last_id,
    coalesce(max(n) > :page_size, false) as more
from page;
