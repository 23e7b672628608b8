-- Leads: one a phone number and tenant.

-- name: get_lead$
-- One lead as clients see it, as JSON text; null when the tenant has no such one.
select lead_json(l)::text from leads as l where l.tenant_id = :tenant_id and l.id = :id;

-- name: lead_exists$
-- Whether the tenant has this lead.
select true from leads where tenant_id = :tenant_id and id = :id;

-- name: list_leads
-- A page of leads as JSON text, latest contact first; the cursor is the last row's (last_contact_at, id).
select
    lead_json(l)::text as item,
    l.last_contact_at as at,
    l.id
from leads as l
where
    l.tenant_id = :tenant_id
    and (:after_at::timestamptz is null or (l.last_contact_at, l.id) < (:after_at, :after_id::uuid))
order by l.last_contact_at desc, l.id desc
limit :page_size;
