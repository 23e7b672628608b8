-- What operators look at and do: figures over time, alerts, what was done by whom, paused queues, periodic jobs' last
-- runs. Nothing here is a tenant's; the system role alone sees it.

-- One minute of the whole fleet. `increases`: by how much each counter that an indicator needs grew, over all
-- processes; a process that ends takes nothing away again. `readings`: {indicator: [value or null, verdict]}.
create table ops_minutes (
    at timestamptz primary key, -- the minute's beginning
    increases jsonb not null,
    readings jsonb not null
);

-- One hour: the same, of each indicator the last value, the least, the most, and the worst verdict.
create table ops_hours (
    at timestamptz primary key,
    readings jsonb not null -- {indicator: [last, least, most, worst verdict]}
);

-- Alerts: one row from when it began to brew until it is over, then history.
create table alerts (
    id bigint generated always as identity primary key,
    name text not null, -- indicator and level: http_p95.critical
    level text not null check (level in ('info', 'warning', 'critical')),
    state text not null check (state in ('pending', 'firing', 'resolved')),
    pending_at timestamptz not null,
    fired_at timestamptz,
    resolved_at timestamptz,
    value double precision, -- the worst while it fires
    acknowledged_at timestamptz,
    acknowledged_by text, -- operator
    fired_notified_at timestamptz, -- when ALERT_WEBHOOK_URL took it
    resolved_notified_at timestamptz
);

create unique index alerts_unresolved on alerts (name) where state <> 'resolved';
create index alerts_by_time on alerts (pending_at desc);

-- Which API process speaks for all: one row.
create table ops_leases (
    name text primary key,
    holder text not null,
    leased_until timestamptz not null
);

-- What operators did.
create table ops_audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor text not null, -- name in OPS_USERS, or the command line's user
    action text not null, -- retry, discard, replay, acknowledge, kick, pause, resume
    target text not null,
    outcome text not null default ''
);

create index ops_audit_by_time on ops_audit (at desc);

-- Queues from which workers take nothing now.
create table paused_queues (
    queue text primary key,
    paused_by text not null,
    paused_at timestamptz not null default now()
);

-- How each periodic job's last run went.
create table periodic_runs (
    name text primary key,
    started_at timestamptz not null,
    seconds double precision not null,
    outcome text not null check (outcome in ('success', 'failure')),
    error text, -- as outbox.error
    traceback text, -- as outbox.traceback
    trace_id text not null default ''
);

-- Where the last attempt failed: frames, without the text of foreign exceptions, which may quote a tenant's data.
alter table outbox add column traceback text;

do $$
declare
    guarded text;
begin
    foreach guarded in array array[
        'ops_minutes', 'ops_hours', 'alerts', 'ops_leases', 'ops_audit', 'paused_queues', 'periodic_runs'
    ] loop
        execute format('alter table %I enable row level security', guarded);
        execute format('alter table %I force row level security', guarded);
        execute format('create policy system_operates on %I to ottoai_system using (true) with check (true)', guarded);
        execute format('grant select, insert, update, delete on %I to ottoai_system', guarded);
    end loop;
end
$$;
