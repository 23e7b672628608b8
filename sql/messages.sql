-- Text messages, and the development sender's memory.

-- name: record_text^
-- One delivery about one text message, whole, as record_report does it for calls: claims its idempotency key, keeps its
-- payload, touches the lead, writes the message down once and appends the events. The lock before it holds back other
-- deliveries about the same message. A repeated delivery changes nothing, nor does another one about a known message.
-- Returns what record_report does.
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
        name = coalesce(excluded.name, l.name),
        last_contact_at = greatest(l.last_contact_at, excluded.last_contact_at),
        version = l.version + 1
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

-- What a text brings about beside itself has its place here, from `message`, with its events in `drafts` and its jobs in
-- `jobs`: that a reply recovers a missed call, that STOP opts a number out, that staff took a rescue over.

drafts (place, event, lead_id, data) as (
    select 1, case when l.created then 'lead.created' else 'lead.updated' end, l.id, l.shape
    from saved_lead as l left join known_lead as k on true
    where l.created or l.shape - 'version' is distinct from k.shape
    union all
    select 2, case when m.direction = 'inbound' then 'telephony.sms.received' else 'telephony.sms.sent' end,
        m.lead_id, m.shape
    from message as m
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
-- a message that nobody knows stays unknown. Returns what record_report does.
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
    select array['sending', 'sent', 'failed', 'undelivered', 'delivered'] as steps
),

message as (
    update messages as m
    set status = :status, error_code = :error_code, sent_at = coalesce(m.sent_at, now())
    from claim, furthest as f
    where
        m.tenant_id = :tenant_id and m.sender = :provider and m.provider_id = :external_id
        and array_position(f.steps, m.status) < array_position(f.steps, :status) -- no step: it was received
    returning m.lead_id, message_json(m) as shape
),

drafts (event, lead_id, data) as (
    select 'telephony.sms.status', lead_id, shape from message
)

select
    :tenant_id as tenant_id,
    exists(select from claim) as fresh,
    '[]' as jobs,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(:tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d)) from drafts as d)) as e
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
