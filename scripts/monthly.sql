-- What a month's look back needs, for psql as the operator's login; `make ops:monthly` runs it.
\pset footer off

\echo 'Oldest rows: none may be more than an hour or two older than it is kept (settings are in days)'
select
    rows,
    date_trunc('minute', oldest) as oldest,
    date_trunc('minute', now() - oldest) as age,
    kept
from (
    select 'events' as rows, (select min(ts) from events) as oldest, 'EVENT_RETENTION_DAYS' as kept
    union all
    select 'probes', least(
        (select min(ts) from events where tenant_id = 'ottoai-probe'),
        (select min(finished_at) from outbox where tenant_id = 'ottoai-probe' and state = 'done')
    ), '1 day'
    union all
    select 'payloads', (select min(received_at) from payloads), 'PAYLOAD_RETENTION_DAYS'
    union all
    select 'idempotency_keys', (select min(created_at) from idempotency_keys), 'IDEMPOTENCY_TTL_DAYS'
    union all
    select 'request_keys', (select min(created_at) from request_keys), '24 hours'
    union all
    select 'unclaimed_deliveries', (select min(received_at) from unclaimed_deliveries), 'PAYLOAD_RETENTION_DAYS'
    union all
    select 'clerk_users', (select min(heard_at) from clerk_users), '7 days'
    union all
    select 'outbox', (select min(finished_at) from outbox where state = 'done'), '7 days'
    union all
    select 'ops_minutes', (select min(at) from ops_minutes), '25 hours'
    union all
    select 'ops_hours', (select min(at) from ops_hours), '31 days'
    union all
    select 'alerts', (select min(resolved_at) from alerts), '395 days'
    union all
    select 'ops_audit', (select min(at) from ops_audit), '395 days'
) as retained;

\echo 'Alerts of the last 30 days: one that fires often and needs nobody has the wrong bound (ALERT_BOUNDS)'
select
    name,
    count(*) as fired,
    count(acknowledged_at) as acknowledged,
    date_trunc('second', percentile_cont(0.5) within group (order by resolved_at - fired_at)) as median
from alerts
where fired_at > now() - interval '30 days'
group by name
order by fired desc;

\echo 'Largest tables'
select
    relname as table,
    pg_size_pretty(pg_total_relation_size(relid)) as size
from pg_stat_user_tables
order by pg_total_relation_size(relid) desc
limit 10;
