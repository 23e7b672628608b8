-- Calls: what providers report about them, and how clients read them.

-- name: record_report^
-- One delivery about one call, whole: claims its idempotency key, keeps its payload, merges the report into the call,
-- touches the lead, opens the rescue, appends the events and stages the jobs. One round trip and one transaction,
-- because round trips are what ingestion costs. The lock before it holds back other reports of the same call, by
-- whichever of its ids they name it, so that what `known` reads is what this report meets.
--
-- Reports merge field by field by rank (1 ringing, 2 routed, 3 completed, 4 corrected) whatever order they come in: a
-- later rank wins, and a fact that a report does not state takes nothing away. Rank 0 is the provider's answer to a
-- question of ours: how the call stood at `as_of`. It is no stage of the call; it stands beside the last final report
-- (4 if there was one, else 3), so that it corrects what came before it and is corrected by what comes after it. What
-- was reported since `as_of` is newer than the answer, which then changes nothing.
-- A repeated delivery changes nothing and returns fresh = false.
-- Returns tenant_id, fresh, events (JSON array of log rows), epoch, jobs (JSON array of {id, queue, tenant_id}: due now).
select lock_call(:tenant_id, :provider, :external_id, :resource_id);
with
found as (
    select find_call(
        :tenant_id, :provider, :external_id, :resource_id::text, :facts::jsonb ->> 'customer_phone',
        (:facts::jsonb ->> 'started_at')::timestamptz
    ) as id
),

claim as (
    insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, trace_id)
    select :tenant_id, :provider, :kind, :external_id, :variant, 'processed', :trace_id
    where
        :as_of::timestamptz is null
        or not exists (
            select from calls as c
            where
                c.tenant_id = :tenant_id and c.id = (select f.id from found as f)
                and c.updated_at > :as_of::timestamptz
        )
    on conflict do nothing
    returning id
),

payload as (
    insert into payloads (idempotency_key_id, tenant_id, headers, body)
    select id, :tenant_id, :headers::jsonb, :body::bytea from claim
),

known as (
    select c.*, call_json(c) - 'version' as shape from claim, calls as c
    where c.tenant_id = :tenant_id and c.id = (select f.id from found as f) and (select f.id from found as f) is not null
),

ranked as (
    select
        coalesce(k.reports, '{}') as reports,
        case when :rank::text <> '0' then :rank::text when k.reports ? '4' then '4' else '3' end as rank
    from claim left join known as k on true
),

reported as (
    select r.reports || jsonb_build_object(r.rank, coalesce(r.reports -> r.rank, '{}') || :facts::jsonb) as reports
    from ranked as r
),

merged as (
    select
        r.reports,
        f.*,
        r.reports ? '3' or r.reports ? '4' as final
    from reported as r,
        jsonb_to_record(
            coalesce(r.reports -> '1', '{}') || coalesce(r.reports -> '2', '{}')
            || coalesce(r.reports -> '3', '{}') || coalesce(r.reports -> '4', '{}')
        ) as f (
            direction text, answered boolean, voicemail boolean, duration_seconds integer, started_at timestamptz,
            customer_phone text, customer_name text, tracking_phone text, source text
        )
),

known_lead as (
    select lead_json(l) - 'version' as shape from merged as m, leads as l
    where l.tenant_id = :tenant_id and l.phone = m.customer_phone
),

saved_lead as (
    insert into leads as l (tenant_id, phone, name, source, last_contact_at)
    select :tenant_id, m.customer_phone, m.customer_name, m.source,
        coalesce(m.started_at, k.started_at, :received_at::timestamptz)
    from merged as m left join known as k on true
    where m.customer_phone is not null
    on conflict (tenant_id, phone) do update set
        name = coalesce(case when l.named_by is null then excluded.name end, l.name), -- staff knows better
        source = coalesce(l.source, excluded.source),
        last_contact_at = greatest(l.last_contact_at, excluded.last_contact_at),
        version = l.version + ( -- counts what is shown
            (
                coalesce(case when l.named_by is null then excluded.name end, l.name),
                coalesce(l.source, excluded.source),
                greatest(l.last_contact_at, excluded.last_contact_at)
            ) is distinct from (l.name, l.source, l.last_contact_at)
        )::integer
    returning l.id, lead_json(l) as shape, l.xmax = 0 as created
),

saved as (
    insert into calls as c (
        tenant_id, id, lead_id, provider, external_id, resource_id, direction, status, answered, voicemail, missed,
        duration_seconds, started_at, customer_phone, customer_name, tracking_phone, source, reports
    )
    select
        :tenant_id, coalesce(k.id, gen_random_uuid()), l.id, :provider,
        case -- the number, as soon as a report tells it
            when k.id is null or (k.external_id = k.resource_id and :external_id is distinct from :resource_id::text)
                then :external_id
            else k.external_id
        end,
        case -- what another call has already is not taken from it
            when k.id is null then :resource_id::text
            when k.resource_id is not null then k.resource_id
            when find_call(:tenant_id, :provider, :resource_id::text, :resource_id::text, null, null) is null
                then :resource_id::text
        end,
        m.direction,
        case when m.final then 'completed' when m.reports ? '2' then 'routed' else 'ringing' end,
        m.answered, m.voicemail,
        coalesce(m.final and m.direction = 'inbound' and (m.answered is false or m.voicemail), false),
        m.duration_seconds, coalesce(m.started_at, k.started_at, :received_at::timestamptz), m.customer_phone,
        m.customer_name, m.tracking_phone, m.source, m.reports
    from merged as m left join saved_lead as l on true left join known as k on true
    on conflict (tenant_id, id) do update set
        lead_id = coalesce(excluded.lead_id, c.lead_id),
        external_id = excluded.external_id,
        resource_id = excluded.resource_id,
        direction = excluded.direction,
        status = excluded.status,
        answered = excluded.answered,
        voicemail = excluded.voicemail,
        missed = excluded.missed,
        duration_seconds = excluded.duration_seconds,
        started_at = excluded.started_at, -- as told, whatever came first; else the first receipt
        customer_phone = excluded.customer_phone,
        customer_name = excluded.customer_name,
        tracking_phone = excluded.tracking_phone,
        source = excluded.source,
        reports = excluded.reports,
        updated_at = now(),
        version = c.version + ( -- counts what is shown
            (
                coalesce(excluded.lead_id, c.lead_id), excluded.external_id, excluded.direction, excluded.status,
                excluded.answered, excluded.voicemail, excluded.missed, excluded.duration_seconds, excluded.started_at,
                excluded.customer_phone, excluded.customer_name, excluded.tracking_phone, excluded.source
            ) is distinct from (
                c.lead_id, c.external_id, c.direction, c.status, c.answered, c.voicemail, c.missed, c.duration_seconds,
                c.started_at, c.customer_phone, c.customer_name, c.tracking_phone, c.source
            )
        )::integer
    returning c.*, call_json(c) as shape
),

-- What became true with this report, besides that it came.
turn as (
    select
        k.id is null as first_heard,
        s.status = 'completed' and k.status is distinct from 'completed' as completed, -- noqa: PRS
        s.missed and k.missed is not true as missed,
        s.shape - 'version' is distinct from k.shape as changed,
        s.started_at < :received_at::timestamptz - :rescue_window::interval as too_late
    from saved as s left join known as k on true
),

rescue as (
    insert into missed_calls (tenant_id, call_id, lead_id, status, called_at, text_due_at)
    select
        :tenant_id, s.id, s.lead_id, case when t.too_late then 'expired' else 'queued' end, s.started_at,
        case when :text_due_at::timestamptz < s.started_at + :rescue_window::interval then :text_due_at::timestamptz end
    from saved as s, turn as t
    where s.missed and s.lead_id is not null -- also when the number comes in a later report
    on conflict (tenant_id, call_id) do nothing
    returning missed_calls.*, missed_call_json(missed_calls) as shape
),

-- Whoever is spoken to needs no chase: by a call that was answered, also if it is the one that had seemed missed, or one
-- that staff makes.
ended as (
    select
        e.status,
        e.lead_id,
        missed_call_json(e) as shape
    from saved as s,
        lateral end_rescues(
            :tenant_id, s.lead_id, s.started_at,
            case when s.direction = 'outbound' then 'outbound_call' else 'answered_call' end
        ) as e
    where
        s.lead_id is not null
        and (s.direction = 'outbound' or (s.status = 'completed' and s.answered and s.voicemail is not true))
),

called_back as (
    select
        t.lead_id,
        t.assigned_to,
        task_json(t) as shape
    from saved as s, lateral close_tasks(:tenant_id, 'call_back', s.lead_id, s.started_at) as t
    where
        s.lead_id is not null
        and (s.direction = 'outbound' or (s.status = 'completed' and s.answered and s.voicemail is not true))
),

staged as (
    insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at, trace_context)
    select
        :tenant_id, 'follow_up', 'urgent', r.id, :received_at::timestamptz, now() + :repair_after::interval,
        :trace_context
    from rescue as r
    where r.status = 'queued'
    returning id, queue, tenant_id
),

drafts (place, event, severity, lead_id, user_id, data) as (
    select 1, 'telephony.call.received', 'info', s.lead_id, null, s.shape
    from saved as s, turn as t where t.first_heard
    union all
    select 2, case when l.created then 'lead.created' else 'lead.updated' end, 'info', l.id, null, l.shape
    from saved_lead as l left join known_lead as k on true
    where l.created or l.shape - 'version' is distinct from k.shape
    union all
    select 3, 'telephony.call.status', 'info', s.lead_id, null, s.shape
    from saved as s, turn as t where t.changed and not t.first_heard and not t.completed
    union all
    select 4, 'telephony.call.completed', 'info', s.lead_id, null, s.shape
    from saved as s, turn as t where t.completed
    union all
    select 5, 'telephony.call.missed', 'warning', s.lead_id, null, s.shape
    from saved as s, turn as t where t.missed
    union all
    select 6, 'missed_call.' || r.status, 'info', r.lead_id, null, r.shape from rescue as r
    union all
    select 7, 'missed_call.' || e.status, 'info', e.lead_id, null, e.shape from ended as e
    union all
    select 8, 'task.updated', 'info', t.lead_id, t.assigned_to, t.shape from called_back as t
)

select
    :tenant_id as tenant_id,
    exists(select from claim) as fresh,
    (
        select coalesce(jsonb_agg(to_jsonb(j)), '[]')::text
        from staged as j
    ) as jobs,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(
            :tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d) - 'place' order by d.place) from drafts as d)
        ) as e
    ) as events;

-- name: get_call^
-- One call as clients see it: `item` as JSON text, and its `version`. Nothing when the tenant has no such one.
select
    call_json(c)::text as item,
    c.version
from calls as c
where c.tenant_id = :tenant_id and c.id = :id;

-- name: list_calls^
-- A page of calls, newest first, with those filters that are given. As every list: `items`, JSON texts in order with
-- commas between them; `last_at` and `last_id`, the place of the last one; `more`, whether another follows. The first
-- page comes after infinity, so that one plan serves all pages.
-- `name` is a beginning: a range of bytes, up to the last character there is. Only leakproof operators may look at rows
-- before row-level security has, and so be conditions of an index.
with page as (
    select
        call_json(c)::text as item,
        c.started_at as at,
        c.id,
        row_number() over (order by c.started_at desc, c.id desc) as n
    from calls as c
    where
        c.tenant_id = :tenant_id
        and (c.started_at, c.id) < (:after_at::timestamptz, :after_id::uuid)
        and (:status::text is null or c.status = :status)
        and (:direction::text is null or c.direction = :direction)
        and (:answered::boolean is null or c.answered = :answered)
        and (:missed::boolean is null or c.missed = :missed)
        and (:lead_id::uuid is null or c.lead_id = :lead_id::uuid)
        and (:phone::text is null or c.customer_phone = :phone)
        and (:name::text is null or c.name_key >= lower(:name::text))
        and (:name::text is null or c.name_key < lower(:name::text) || chr(1114111))
        and (:since::timestamptz is null or c.started_at >= :since::timestamptz)
        and (:until::timestamptz is null or c.started_at < :until::timestamptz)
    order by c.started_at desc, c.id desc
    limit :page_size + 1
)

select
    string_agg(item, ',' order by n) filter (where n <= :page_size) as items,
    max(at) filter (where n = :page_size) as last_at,
    max(id::text) filter (where n = :page_size) as last_id,
    coalesce(max(n) > :page_size, false) as more
from page;
