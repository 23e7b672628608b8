-- Leads: one a phone number and tenant.

-- name: get_lead^
-- One lead as clients see it: `item` as JSON text, and its `version`. Nothing when the tenant has no such one.
select
    lead_json(l)::text as item,
    l.version
from leads as l
where l.tenant_id = :tenant_id and l.id = :id;

-- name: lead_exists$
-- Whether the tenant has this lead.
select true from leads where tenant_id = :tenant_id and id = :id;

-- name: list_leads^
-- A page of leads, latest contact first; see list_calls.
with page as (
    select
        lead_json(l)::text as item,
        l.last_contact_at as at,
        l.id,
        row_number() over (order by l.last_contact_at desc, l.id desc) as n
    from leads as l
    where
        l.tenant_id = :tenant_id
        and (l.last_contact_at, l.id) < (:after_at::timestamptz, :after_id::uuid)
        and (:phone::text is null or l.phone = :phone)
        and (:name::text is null or l.name_key >= lower(:name::text))
        and (:name::text is null or l.name_key < lower(:name::text) || chr(1114111))
    order by l.last_contact_at desc, l.id desc
    limit :page_size + 1
)

select
    string_agg(item, ',' order by n) filter (where n <= :page_size) as items,
    max(at) filter (where n = :page_size) as last_at,
    max(id::text) filter (where n = :page_size) as last_id,
    coalesce(max(n) > :page_size, false) as more
from page;

-- name: change_lead^
-- Changes a lead's name as `patch` says, if it has one of `versions` (null: any); it stays then, whatever providers tell,
-- until staff takes it away. Returns matches, the row as it is then, and what was appended. A name that it had from
-- providers already is staff's from then on, and nothing that is shown changes with that. The lock before it makes others wait, so that what `known` reads is what is changed.
select 1 from leads where tenant_id = :tenant_id and id = :id for no key update;
with
known as (
    select
        l as row,
        jsonb_populate_record(l, :patch::jsonb) as wanted,
        :versions::text[] is null or l.version::text = any(:versions::text[]) as matches
    from leads as l
    where l.tenant_id = :tenant_id and l.id = :id
),

saved as (
    update leads as l
    set
        name = (k.wanted).name,
        named_by = case when (k.wanted).name is not null then :user_id end,
        version = l.version + (k.wanted is distinct from k.row)::integer
    from known as k
    where
        l.tenant_id = :tenant_id and l.id = :id and k.matches
        and (
            k.wanted is distinct from k.row
            or (:patch::jsonb ->> 'name' is not null and (k.row).named_by is null)
        )
    returning l.id, l.version, lead_json(l) as shape, k.wanted is distinct from k.row as changed
),

drafts (event, lead_id, data) as (
    select 'lead.updated', s.id, s.shape from saved as s
    where s.changed
)

select
    k.matches,
    coalesce(s.version, (k.row).version) as version,
    coalesce(s.shape, lead_json(k.row))::text as shape,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(:tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d)) from drafts as d)) as e
    ) as events
from known as k left join saved as s on true;
