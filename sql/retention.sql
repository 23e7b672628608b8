-- Forgetting. Each query deletes a batch of what is older than `before` and returns how many rows it deleted.
-- All run as ottoai_system, one run at a time.

-- name: retire_events$
-- Events, oldest first: what is left of a log has no hole.
with gone as (
    delete from events
    where (tenant_id, seq) in (select tenant_id, seq from events where ts < :before order by ts, seq limit :limit)
    returning seq
)

select count(*) from gone;

-- name: retire_probes$
-- Events and jobs of the self-probe's tenant. Whatever became of a probe, its job ends as done; a dead one, should there
-- ever be any, stays for an operator, as others' do.
with old as (
    select e.seq from events as e where e.tenant_id = :probe and e.ts < :before order by e.seq limit :limit
),

gone as (
    delete from events where tenant_id = :probe and seq in (select old.seq from old)
    returning seq
),

jobs as (
    delete from outbox
    where
        id in (
            select o.id from outbox as o
            where o.tenant_id = :probe and o.state = 'done' and o.finished_at < :before
            order by o.finished_at -- by outbox_probes; else all is read, as if many of those jobs were a probe's
            limit :limit
        )
    returning id
)

select greatest((select count(*) from gone), (select count(*) from jobs));

-- name: retire_payloads$
-- Raw webhook bodies.
with gone as (
    delete from payloads
    where idempotency_key_id in (select idempotency_key_id from payloads where received_at < :before limit :limit)
    returning idempotency_key_id
)

select count(*) from gone;

-- name: retire_keys$
-- Idempotency keys, and with them their payloads, should any be left.
with gone as (
    delete from idempotency_keys
    where id in (select id from idempotency_keys where created_at < :before limit :limit)
    returning id
)

select count(*) from gone;

-- name: retire_request_keys$
-- Idempotency keys of the API's clients, with the answers that were given.
with gone as (
    delete from request_keys
    where
        (tenant_id, user_id, key) in (
            select tenant_id, user_id, key from request_keys where created_at < :before limit :limit
        )
    returning key
)

select count(*) from gone;

-- name: retire_jobs$
-- Jobs that were done. Those that are dead stay until somebody has dealt with them.
with gone as (
    delete from outbox
    where id in (select id from outbox where state = 'done' and finished_at < :before limit :limit)
    returning id
)

select count(*) from gone;

-- name: retire_clerk_users$
-- What was told of users, once nothing told before it can come any more.
with gone as (
    delete from clerk_users
    where
        user_id in (select user_id from clerk_users where heard_at < :before limit :limit)
        and heard_at < :before -- unless it was heard of again meanwhile
    returning user_id
)

select count(*) from gone;

-- name: retire_unclaimed$
-- Deliveries of companies that nobody added in all that time.
with gone as (
    delete from unclaimed_deliveries
    where id in (select id from unclaimed_deliveries where received_at < :before limit :limit)
    returning id
)

select count(*) from gone;

-- name: retire_minutes$
-- Minutes of the watch.
with gone as (
    delete from ops_minutes where at in (select at from ops_minutes where at < :before limit :limit) returning at
)

select count(*) from gone;

-- name: retire_hours$
-- Hours of the watch.
with gone as (
    delete from ops_hours where at in (select at from ops_hours where at < :before limit :limit) returning at
)

select count(*) from gone;

-- name: retire_alerts$
-- Alerts that are over.
with gone as (
    delete from alerts
    where id in (select id from alerts where pending_at < :before and resolved_at < :before limit :limit)
    returning id
)

select count(*) from gone;

-- name: retire_audit$
-- What operators did.
with gone as (
    delete from ops_audit where id in (select id from ops_audit where at < :before limit :limit) returning id
)

select count(*) from gone;
