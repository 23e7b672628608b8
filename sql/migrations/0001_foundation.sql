-- The schema of the foundation. PostgreSQL 16 or later.
--
-- Every table that holds a tenant's data carries `tenant_id` and is read and written under row-level security,
-- ENABLE + FORCE, so that a query without a tenant sees nothing. Two roles act, none of which may bypass it:
--   ottoai_app     one tenant, named by the transaction-local setting app.tenant_id
--   ottoai_system  the few things that cross tenants; each has its own policy at the end of this file
-- The login that migrates owns the tables and is a member of both; an operator's psql acts as ottoai_system.

do $$
begin
    if not exists (select from pg_roles where rolname = 'ottoai_app') then
        create role ottoai_app nologin nobypassrls;
    end if;
    if not exists (select from pg_roles where rolname = 'ottoai_system') then
        create role ottoai_system nologin nobypassrls;
    end if;
end
$$;

-- set: the processes take the role on; inherit: psql sees what the role sees without asking.
grant ottoai_app to current_user with inherit false, set true; -- noqa: PRS
grant ottoai_system to current_user with inherit true, set true;
grant usage on schema public to ottoai_app, ottoai_system;

create table tenants (
    id text primary key check (id ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$'), -- the `org` of its users' tokens
    name text not null check (name <> ''),
    timezone text not null, -- IANA name
    hours text not null, -- opening hours: 'always' or 'Mon-Fri 09:00-17:00'
    created_at timestamptz not null default now(),
    version integer not null default 1 -- rises with every change
);

-- Where each tenant's sequence stands. Its row lock orders the tenant's commits; kept apart and narrow because
-- every fact updates it.
create table heads (
    tenant_id text primary key references tenants (id) on delete cascade,
    epoch bigint not null default extract(epoch from now())::bigint, -- changes when history does (a restored backup)
    seq bigint not null default 0 -- number of the latest event
) with (fillfactor = 50);

-- What a delivery may say that tells whose it is.
create table tenant_routes (
    provider text not null, -- callrail, twilio
    kind text not null, -- company, number, account, hook (the tenant's own unguessable path)
    value text not null,
    tenant_id text not null references tenants (id) on delete cascade,
    primary key (provider, kind, value)
);

create index tenant_routes_by_tenant on tenant_routes (tenant_id);

-- Secrets shared with providers. During a rotation the previous one is accepted beside the current.
create table credentials (
    tenant_id text not null references tenants (id) on delete cascade,
    provider text not null,
    name text not null, -- signing_key, api_token, auth_token
    current text not null,
    previous text,
    rotated_at timestamptz not null default now(),
    primary key (tenant_id, provider, name)
);

create table leads (
    tenant_id text not null references tenants (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    phone text not null, -- E.164
    name text,
    source text, -- what first brought the lead, in the provider's words
    created_at timestamptz not null default now(),
    last_contact_at timestamptz not null,
    version integer not null default 1,
    primary key (tenant_id, id),
    unique (tenant_id, phone)
);

create index leads_by_contact on leads (tenant_id, last_contact_at desc, id desc);

create table calls (
    tenant_id text not null references tenants (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    lead_id uuid, -- null when the caller withheld the number
    provider text not null,
    external_id text not null, -- the provider's id of the call
    direction text check (direction in ('inbound', 'outbound')), -- null: not told yet
    status text not null check (status in ('ringing', 'routed', 'completed')),
    answered boolean, -- null: not known yet
    voicemail boolean, -- null: not known yet
    missed boolean not null default false, -- completed, inbound, and nobody answered or a voicemail did
    duration_seconds integer check (duration_seconds >= 0),
    started_at timestamptz not null,
    customer_phone text, -- E.164
    customer_name text,
    tracking_phone text, -- E.164
    source text,
    reports jsonb not null, -- what each report told, by rank; the columns above are its merge
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    version integer not null default 1,
    primary key (tenant_id, id),
    unique (tenant_id, provider, external_id),
    foreign key (tenant_id, lead_id) references leads (tenant_id, id)
);

create index calls_by_start on calls (tenant_id, started_at desc, id desc);
create index calls_by_lead on calls (tenant_id, lead_id, started_at desc);

-- The rescue of one missed call.
create table missed_calls (
    tenant_id text not null references tenants (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    call_id uuid not null,
    lead_id uuid not null,
    status text not null check (
        status in ('queued', 'texted', 'recovered', 'escalated', 'opted_out', 'expired')
    ),
    called_at timestamptz not null, -- when the call came in
    text_due_at timestamptz, -- when the first text may go; null when none will
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    version integer not null default 1,
    primary key (tenant_id, id),
    unique (tenant_id, call_id),
    foreign key (tenant_id, call_id) references calls (tenant_id, id),
    foreign key (tenant_id, lead_id) references leads (tenant_id, id)
);

create index missed_calls_by_call_time on missed_calls (tenant_id, called_at desc, id desc);

-- Text messages. `sending` is committed before the provider is called, so that a crash leaves a trace to look up.
create table messages (
    tenant_id text not null references tenants (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    lead_id uuid not null,
    missed_call_id uuid,
    step smallint, -- which text of the rescue: 1 is the first
    direction text not null check (direction in ('inbound', 'outbound')),
    status text not null check (status in ('sending', 'sent', 'failed', 'received')),
    sender text not null, -- what carried it: development, twilio
    provider_id text, -- the carrier's id once it is known
    body text not null,
    created_at timestamptz not null default now(),
    sent_at timestamptz,
    primary key (tenant_id, id),
    unique (tenant_id, missed_call_id, step),
    foreign key (tenant_id, lead_id) references leads (tenant_id, id),
    foreign key (tenant_id, missed_call_id) references missed_calls (tenant_id, id)
);

create index messages_by_lead on messages (tenant_id, lead_id, created_at desc);

-- Work for the tenant's staff.
create table tasks (
    tenant_id text not null references tenants (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    lead_id uuid,
    kind text not null,
    title text not null,
    status text not null default 'open' check (status in ('open', 'done')),
    assigned_to text, -- user id
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    version integer not null default 1,
    primary key (tenant_id, id),
    foreign key (tenant_id, lead_id) references leads (tenant_id, id)
);

create index tasks_by_time on tasks (tenant_id, created_at desc, id desc);

-- The log: one row a fact, numbered without a gap within the tenant.
create table events (
    tenant_id text not null references tenants (id) on delete cascade,
    seq bigint not null,
    event text not null, -- its name in the catalogue
    ts timestamptz not null default clock_timestamp(),
    severity text not null default 'info' check (severity in ('info', 'warning', 'critical')),
    trace_id text not null default '',
    lead_id uuid, -- also on the lead's channel
    user_id text, -- also on the user's channel
    data jsonb not null,
    primary key (tenant_id, seq)
);

create index events_by_lead on events (tenant_id, lead_id, seq) where lead_id is not null;
create index events_by_user on events (tenant_id, user_id, seq) where user_id is not null;
create index events_by_age on events (ts);

-- One row a delivery that was accepted; the unique index decides between concurrent duplicates.
create table idempotency_keys (
    id uuid primary key default gen_random_uuid(),
    tenant_id text not null references tenants (id) on delete cascade,
    provider text not null,
    kind text not null, -- which report: pre-call, call-complete, …
    external_id text not null, -- the provider's id of what is reported
    variant text not null, -- digest of what it says, so that a later status of the same call is not a duplicate
    outcome text not null check (outcome in ('processed', 'quarantined')),
    trace_id text not null default '',
    created_at timestamptz not null default now(),
    unique (tenant_id, provider, kind, external_id, variant)
);

create index idempotency_keys_by_age on idempotency_keys (created_at);

-- The raw deliveries, for replay and inquiry.
create table payloads (
    idempotency_key_id uuid primary key references idempotency_keys (id) on delete cascade,
    tenant_id text not null references tenants (id) on delete cascade,
    headers jsonb not null,
    body bytea not null,
    error text, -- why it was quarantined
    received_at timestamptz not null default now()
);

create index payloads_by_age on payloads (received_at);

-- Deliveries of companies that nobody has added yet, as they came; checked and ingested when one is added.
create table unclaimed_deliveries (
    id bigint generated always as identity primary key,
    provider text not null,
    kind text not null,
    identities text[] not null, -- 'kind:value', as in tenant_routes
    headers jsonb not null,
    body bytea not null,
    received_at timestamptz not null default now()
);

create index unclaimed_by_identity on unclaimed_deliveries using gin (identities);

-- Jobs, staged with the change that caused them and open until their own effect commits.
create table outbox (
    id uuid primary key default gen_random_uuid(),
    tenant_id text not null references tenants (id) on delete cascade,
    job text not null, -- name of the job
    queue text not null,
    subject_id uuid not null, -- what it is about; all that a job is told
    state text not null default 'open' check (state in ('open', 'done', 'dead')),
    attempts integer not null default 0, -- times it was begun
    due_at timestamptz not null, -- when it should run: its first time, or its next try
    enqueue_at timestamptz not null, -- when beat should (re-)enqueue it if it is still open
    leased_until timestamptz, -- a worker has it until then
    error text, -- what the last attempt failed with
    trace_context text not null default '', -- W3C traceparent of what caused it
    created_at timestamptz not null default now(),
    finished_at timestamptz
);

create index outbox_due on outbox (enqueue_at) where state = 'open';
create index outbox_by_age on outbox (finished_at) where state = 'done';

-- What the development sender was asked to send: its memory, as a carrier has one. Not part of the domain.
create table development_texts (
    message_id uuid primary key,
    tenant_id text not null references tenants (id) on delete cascade,
    recipient text not null,
    body text not null,
    sent_at timestamptz not null default now()
);

-- The shapes in which clients see a row: in the API and as `data` of events alike.

create function call_json(c calls) returns jsonb language sql stable return jsonb_build_object(
    'id', c.id, 'lead_id', c.lead_id, 'provider', c.provider, 'external_id', c.external_id,
    'direction', c.direction, 'status', c.status, 'answered', c.answered, 'voicemail', c.voicemail,
    'missed', c.missed, 'duration_seconds', c.duration_seconds, 'started_at', c.started_at,
    'customer_phone', c.customer_phone, 'customer_name', c.customer_name, 'tracking_phone', c.tracking_phone,
    'source', c.source, 'version', c.version
);

create function lead_json(l leads) returns jsonb language sql stable return jsonb_build_object(
    'id', l.id, 'phone', l.phone, 'name', l.name, 'source', l.source, 'created_at', l.created_at,
    'last_contact_at', l.last_contact_at, 'version', l.version
);

create function missed_call_json(m missed_calls) returns jsonb language sql stable return jsonb_build_object(
    'id', m.id, 'call_id', m.call_id, 'lead_id', m.lead_id, 'status', m.status, 'called_at', m.called_at,
    'text_due_at', m.text_due_at, 'version', m.version
);

create function message_json(m messages) returns jsonb language sql stable return jsonb_build_object(
    'id', m.id, 'lead_id', m.lead_id, 'missed_call_id', m.missed_call_id, 'step', m.step,
    'direction', m.direction, 'status', m.status, 'body', m.body, 'created_at', m.created_at, 'sent_at', m.sent_at
);

-- Appends events to a tenant's log: takes the next numbers, which holds the tenant's later commits back until this
-- transaction ends, so call it last. `drafts` is an array of {event, severity?, lead_id?, user_id?, data}; null or
-- empty appends nothing. Returns the rows as they stand in the log.
create function append_events(tenant text, trace text, drafts jsonb) returns setof events
language plpgsql as $$
declare
    added integer := coalesce(jsonb_array_length(drafts), 0);
    head bigint;
begin
    if added = 0 then
        return;
    end if;
    update heads set seq = seq + added where tenant_id = tenant returning seq into head;
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

-- Row-level security.

create function current_tenant() returns text language sql stable
return nullif(current_setting('app.tenant_id', true), '');

do $$
declare
    guarded text;
begin
    foreach guarded in array array[
        'heads', 'tenant_routes', 'credentials', 'leads', 'calls', 'missed_calls', 'messages', 'tasks', 'events',
        'idempotency_keys', 'payloads', 'outbox', 'development_texts'
    ] loop
        execute format('alter table %I enable row level security', guarded);
        execute format('alter table %I force row level security', guarded);
        execute format(
            'create policy own_tenant on %I to ottoai_app '
            'using (tenant_id = (select current_tenant())) with check (tenant_id = (select current_tenant()))',
            guarded
        );
    end loop;
end
$$;

alter table tenants enable row level security;
alter table tenants force row level security;
create policy own_tenant on tenants to ottoai_app
using (id = (select current_tenant())) with check (id = (select current_tenant()));
alter table unclaimed_deliveries enable row level security; -- nobody's yet: the system role alone
alter table unclaimed_deliveries force row level security;

grant select on tenants to ottoai_app;
grant select, insert, update on heads, leads, calls, missed_calls, messages, tasks, outbox to ottoai_app;
grant select, insert on events, idempotency_keys, payloads, development_texts to ottoai_app;

-- What crosses tenants, and why.
create policy system_registers on tenants to ottoai_system using (true) with check (true); -- tenant add, set, list
create policy system_routes on tenant_routes to ottoai_system using (true) with check (true); -- whose delivery
create policy system_verifies on credentials to ottoai_system using (true) with check (true); -- with which key
create policy system_watches on heads to ottoai_system using (true) with check (true); -- which logs grew
create policy system_holds on unclaimed_deliveries to ottoai_system using (true) with check (true);
create policy system_enqueues on outbox to ottoai_system using (true) with check (true); -- due jobs of all
create policy system_retires_events on events to ottoai_system using (true); -- retention
create policy system_retires_keys on idempotency_keys to ottoai_system using (true); -- retention, operators' counts
create policy system_retires_payloads on payloads to ottoai_system using (true); -- retention

grant select, insert, update on tenants, tenant_routes, credentials, heads to ottoai_system;
grant delete on tenant_routes to ottoai_system;
grant select, insert, delete on unclaimed_deliveries to ottoai_system;
grant select, update, delete on outbox to ottoai_system;
grant select, delete on events, idempotency_keys, payloads to ottoai_system;
grant select on _yoyo_migration to ottoai_system; -- readiness compares it with the files
