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
