-- What a month's look back needs, for psql as the operator's login; `make ops:monthly` runs it.
\pset footer off

\echo 'Oldest rows: none may be older than its retention setting says'
select
    'events' as rows, (select min(ts) from events)::date as oldest, 'EVENT_RETENTION_DAYS' as setting
union all
select 'payloads', (select min(received_at) from payloads)::date, 'PAYLOAD_RETENTION_DAYS'
union all
select 'idempotency_keys', (select min(created_at) from idempotency_keys)::date, 'IDEMPOTENCY_TTL_DAYS'
union all
select 'ops_minutes', (select min(at) from ops_minutes)::date, '24 hours'
union all
select 'ops_hours', (select min(at) from ops_hours)::date, '30 days';

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
