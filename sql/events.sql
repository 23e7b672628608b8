-- The log of each tenant.

-- name: append^
-- Appends drafts in a transaction of their own. Returns tenant_id, epoch and events (JSON array of log rows).
select
    :tenant_id as tenant_id,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(:tenant_id, :trace_id, :drafts::jsonb) as e
    ) as events;

-- name: since$
-- Log rows after one number up to another, as a JSON array in order.
select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
from (
    select * from events
    where tenant_id = :tenant_id and seq > :after and seq <= :until
    order by seq
    limit :limit
) as e;

-- name: since_of_lead$
-- The same, only those about one lead.
select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
from (
    select * from events
    where tenant_id = :tenant_id and lead_id = :subject::uuid and seq > :after and seq <= :until
    order by seq
    limit :limit
) as e;

-- name: since_of_user$
-- The same, only those about one user.
select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
from (
    select * from events
    where tenant_id = :tenant_id and user_id = :subject and seq > :after and seq <= :until
    order by seq
    limit :limit
) as e;

-- name: count_of_lead$
-- How many log rows about a lead lie after one number, up to another.
select count(*)
from events
where tenant_id = :tenant_id and lead_id = :subject::uuid and seq > :after and seq <= :until;

-- name: count_of_user$
-- The same for a user.
select count(*)
from events
where tenant_id = :tenant_id and user_id = :subject and seq > :after and seq <= :until;

-- name: head^
-- Where the tenant's log stands, and how far back it reaches.
select
    h.epoch,
    h.seq,
    coalesce((select min(e.seq) from events as e where e.tenant_id = :tenant_id), h.seq + 1) as oldest
from heads as h
where h.tenant_id = :tenant_id;

-- name: heads
-- Where the logs of several tenants stand.
select
    tenant_id,
    epoch,
    seq
from heads
where tenant_id = any(:tenants);
