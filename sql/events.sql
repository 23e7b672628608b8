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

-- name: since^
-- Log rows after one number up to another, all or only those about a lead or a user, as a JSON array in order; and the
-- log's epoch and oldest number.
select
    l.epoch,
    l.oldest,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from (
            select * from events
            where
                tenant_id = :tenant_id and seq > :after and seq <= :until
                and (:lead::uuid is null or lead_id = :lead::uuid)
                and (:user::text is null or user_id = :user::text)
            order by seq
            limit :limit
        ) as e
    ) as events
from logs as l
where l.tenant_id = :tenant_id;

-- name: count_since$
-- How many log rows lie after one number, up to another: all or only those about a lead or a user.
select count(*)
from events
where
    tenant_id = :tenant_id and seq > :after and seq <= :until
    and (:lead::uuid is null or lead_id = :lead::uuid)
    and (:user::text is null or user_id = :user::text);

-- name: head^
-- Where the tenant's log stands, and how far back it reaches.
select
    epoch,
    seq,
    oldest
from logs
where tenant_id = :tenant_id;

-- name: heads
-- Where the logs of several tenants stand.
select
    tenant_id,
    epoch,
    seq
from heads
where tenant_id = any(:tenants);

-- name: noun_heads
-- For several tenants the numbers of the latest events that touched each noun. While such a number and the epoch stand,
-- what was read of the noun is still so.
select
    tenant_id,
    epoch,
    calls_seq,
    leads_seq,
    messages_seq,
    tasks_seq,
    missed_calls_seq
from heads
where tenant_id = any(:tenants);
