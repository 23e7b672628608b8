-- What the rescue, the API and the recap keep.

-- A tenant's own settings of the rescue.
alter table tenants
add column holidays date[] not null default '{}', -- days on which the tenant is closed, in its time zone
add column texts_enabled boolean not null default true, -- false: staff is told of missed calls, callers are not texted
add column first_text text check (first_text <> ''), -- null: the text of the house; {company} is the tenant's name
add column follow_up_text text check (follow_up_text <> ''),
add column sla_minutes integer not null default 120 check (sla_minutes between 1 and 2880); -- of open time

create function settings_json(t tenants) returns jsonb language sql stable return jsonb_build_object(
    'id', t.id, 'name', t.name, 'timezone', t.timezone, 'hours', t.hours, 'holidays', t.holidays,
    'texts_enabled', t.texts_enabled, 'first_text', t.first_text, 'follow_up_text', t.follow_up_text,
    'sla_minutes', t.sla_minutes, 'version', t.version
);

-- By its own API; the policy holds it to its own row.
grant update (
    name, timezone, hours, holidays, texts_enabled, first_text, follow_up_text, sla_minutes, version
) on tenants to ottoai_app;

-- How far a rescue has come.
alter table missed_calls
add column step smallint not null default 0, -- texts of the chase that are over: sent, passed over, or given up
add column first_text_at timestamptz, -- when the first of them was handed to the carrier
add column escalated_at timestamptz,
add column ended_at timestamptz,
add column ended_by text check (
    ended_by in ('reply', 'answered_call', 'outbound_call', 'outbound_text', 'task_done', 'stop', 'time')
);

create or replace function missed_call_json(m missed_calls) returns jsonb language sql stable return jsonb_build_object(
    'id', m.id, 'call_id', m.call_id, 'lead_id', m.lead_id, 'status', m.status, 'called_at', m.called_at,
    'text_due_at', m.text_due_at, 'first_text_at', m.first_text_at, 'escalated_at', m.escalated_at,
    'ended_at', m.ended_at, 'ended_by', m.ended_by, 'version', m.version
);

create index missed_calls_by_lead on missed_calls (tenant_id, lead_id, called_at desc, id desc);
create index missed_calls_by_status on missed_calls (tenant_id, status, called_at desc, id desc);

alter table messages add column begun_at timestamptz; -- when it became `sending`: what a carrier has of it is younger
drop index messages_by_lead;
create index messages_by_lead on messages (tenant_id, lead_id, created_at desc, id desc);

create index tasks_by_status on tasks (tenant_id, status, created_at desc, id desc);
create index tasks_by_assignee on tasks (tenant_id, assigned_to, created_at desc, id desc);
create index tasks_by_lead on tasks (tenant_id, lead_id, created_at desc, id desc);

-- Names are found by their beginning, in whatever case. In columns of their own, since PostgreSQL does not let a function
-- such as lower() look at rows before row-level security has; "C", since a prefix is a range of bytes.
alter table leads add column name_key text collate "C" generated always as (lower(name)) stored;
alter table calls add column name_key text collate "C" generated always as (lower(customer_name)) stored;
create index leads_by_name on leads (tenant_id, name_key);
create index calls_by_name on calls (tenant_id, name_key, started_at desc, id desc);
create index calls_by_phone on calls (tenant_id, customer_phone, started_at desc, id desc);
create index calls_missed on calls (tenant_id, started_at desc, id desc) where missed;
drop index calls_by_lead;
create index calls_by_lead on calls (tenant_id, lead_id, started_at desc, id desc);

-- The number of the latest event that touched a noun: what was read of the noun at that number is still so.
alter table heads
add column calls_seq bigint not null default 0,
add column leads_seq bigint not null default 0,
add column messages_seq bigint not null default 0,
add column tasks_seq bigint not null default 0,
add column missed_calls_seq bigint not null default 0;
update heads set calls_seq = seq, leads_seq = seq, messages_seq = seq, tasks_seq = seq, missed_calls_seq = seq;

create or replace function append_events(tenant text, trace text, drafts jsonb) returns setof events
language plpgsql as $$
declare
    added integer := coalesce(jsonb_array_length(drafts), 0);
    names text;
    head bigint;
begin
    if added = 0 then
        return;
    end if;
    select string_agg(d.draft ->> 'event', ' ') into names from jsonb_array_elements(drafts) as d (draft);
    update heads set
        seq = seq + added,
        calls_seq = case when names like '%telephony.call.%' then seq + added else calls_seq end,
        leads_seq = case when names like '%lead.%' then seq + added else leads_seq end,
        messages_seq = case when names like '%telephony.sms.%' then seq + added else messages_seq end,
        tasks_seq = case when names like '%task.%' then seq + added else tasks_seq end,
        missed_calls_seq = case when names like '%missed_call.%' then seq + added else missed_calls_seq end
    where tenant_id = tenant
    returning seq into head;
    if not found then
        raise foreign_key_violation using message = 'no such tenant';
    end if;
    return query
        insert into events (tenant_id, seq, event, severity, trace_id, lead_id, user_id, data)
        select
            tenant, head - added + d.n, d.draft ->> 'event', coalesce(d.draft ->> 'severity', 'info'), trace,
            (d.draft ->> 'lead_id')::uuid, d.draft ->> 'user_id', d.draft -> 'data'
        from jsonb_array_elements(drafts) with ordinality as d (draft, n)
        returning *;
end
$$;

-- Requests that carried an Idempotency-Key, with their answers: the same key has the same effect once.
create table request_keys (
    tenant_id text not null references tenants (id) on delete cascade,
    user_id text not null,
    key text not null,
    fingerprint text not null, -- digest of method, path and body: the same key for something else is a mistake
    status smallint not null,
    answer jsonb not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, user_id, key)
);

create index request_keys_by_age on request_keys (created_at);

-- What each tenant was told at the end of a day, once.
create table recaps (
    tenant_id text not null references tenants (id) on delete cascade,
    day date not null, -- in the tenant's time zone
    data jsonb not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, day)
);

do $$
declare
    guarded text;
begin
    foreach guarded in array array['request_keys', 'recaps'] loop
        execute format('alter table %I enable row level security', guarded);
        execute format('alter table %I force row level security', guarded);
        execute format(
            'create policy own_tenant on %I to ottoai_app, ottoai_privacy '
            'using (tenant_id = (select current_tenant())) with check (tenant_id = (select current_tenant()))',
            guarded
        );
        execute format('grant select, delete on %I to ottoai_privacy', guarded);
    end loop;
end
$$;
grant select, insert on request_keys, recaps to ottoai_app;
create policy system_retires on request_keys to ottoai_system using (true); -- retention
grant select, delete on request_keys to ottoai_system;
create policy system_schedules on recaps for select to ottoai_system using (true); -- whose day has not been told yet
grant select on recaps to ottoai_system;

-- The job that texted is now the one that follows a rescue up to its end.
update outbox set job = 'follow_up' where job = 'text_missed_call' and state = 'open';
create index outbox_dead on outbox (finished_at) where state = 'dead';
