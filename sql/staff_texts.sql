-- Texts that staff writes through the API. What becomes of them then is in messages.sql.

-- name: queue_text^
-- A text that one of the staff writes to a lead: writes it down as queued, stages the job that sends it, ends the lead's
-- open rescues and tasks to call back, since somebody has taken over, and appends the events. All that once for each key
-- (null: every time); what is answered is kept with the key. The message is made up before it is stored, since the key's
-- answer holds it and the key decides whether there is one.
-- Returns outcome, status and answer (JSON text), epoch, events and jobs. Outcomes: done; replayed, of the same request;
-- reused, for another; raced, by another with the same key which has just committed; opted_out; missing, the lead.
with
kept as (
    select
        r.fingerprint,
        r.status,
        r.answer
    from request_keys as r
    where r.tenant_id = :tenant_id and r.user_id = :user_id and r.key = :key::text
),

lead as (
    select
        l.id,
        exists(
            select from opt_outs as o
            where o.tenant_id = :tenant_id and o.digest = phone_digest(:tenant_id, l.phone)
        ) as opted_out
    from leads as l
    where l.tenant_id = :tenant_id and l.id = :id
),

draft as (
    select jsonb_populate_record(
        null::messages,
        jsonb_build_object(
            'tenant_id', :tenant_id::text, 'id', gen_random_uuid(), 'lead_id', l.id, 'direction', 'outbound',
            'status', 'queued', 'body', :body::text, 'author', :user_id::text, 'created_at', now(), 'version', 1
        )
    ) as message
    from lead as l
    where not l.opted_out and not exists (select from kept)
),

claim as (
    insert into request_keys (tenant_id, user_id, key, fingerprint, status, answer)
    select :tenant_id, :user_id, :key::text, :fingerprint, 202, message_json(d.message)
    from draft as d
    where :key::text is not null
    on conflict do nothing
    returning key
),

message as (
    insert into messages
    select (d.message).* from draft as d
    where :key::text is null or exists (select from claim)
    returning messages.*, message_json(messages) as shape
),

staged as (
    insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at, trace_context)
    select :tenant_id, 'send_text', 'urgent', m.id, now(), now() + :repair_after::interval, :trace_context
    from message as m
    returning id, queue, tenant_id
),

ended as (
    select
        r.lead_id,
        missed_call_json(r) as shape
    from message as m, lateral end_rescues(:tenant_id, m.lead_id, m.created_at, 'outbound_text') as r
),

called_back as (
    select
        t.lead_id,
        t.assigned_to,
        task_json(t) as shape
    from message as m, lateral close_tasks(:tenant_id, 'call_back', m.lead_id, m.created_at) as t
),

drafts (place, event, lead_id, user_id, data) as (
    select 1, 'telephony.sms.status', m.lead_id, null, m.shape from message as m
    union all
    select 2, 'missed_call.recovered', e.lead_id, null, e.shape from ended as e
    union all
    select 3, 'task.updated', t.lead_id, t.assigned_to, t.shape from called_back as t
)

select
    case
        when exists (select from kept as k where k.fingerprint = :fingerprint) then 'replayed'
        when exists (select from kept) then 'reused'
        when not exists (select from lead) then 'missing'
        when exists (select from lead as l where l.opted_out) then 'opted_out'
        when exists (select from message) then 'done'
        else 'raced'
    end as outcome,
    coalesce((select status from kept), 202) as status,
    coalesce((select answer from kept), (select shape from message))::text as answer,
    (select coalesce(jsonb_agg(to_jsonb(j)), '[]')::text from staged as j) as jobs,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(
            :tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d) - 'place' order by d.place) from drafts as d)
        ) as e
    ) as events;
