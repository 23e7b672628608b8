-- What the rescue and the API stand on: texts that wait to be sent, tasks for staff, numbers that want no texts.

-- A text of ours is `queued` with the change that asked for it, `sending` before the carrier is called, then `sent`,
-- `failed` (given up), `unknown` (nobody can tell whether it went out; it is never sent again) or `cancelled` (what asked
-- for it no longer wants it).
alter table messages
add column author text, -- user id of who wrote it; null when the rescue or the other side did
add column version integer not null default 1,
drop constraint messages_status_check,
add constraint messages_status_check check (
    status in (
        'queued', 'sending', 'sent', 'delivered', 'undelivered', 'failed', 'unknown', 'cancelled', 'received'
    )
),
alter column sender drop not null; -- not known while it is queued

create or replace function message_json(m messages) returns jsonb language sql stable return jsonb_build_object(
    'id', m.id, 'lead_id', m.lead_id, 'missed_call_id', m.missed_call_id, 'step', m.step,
    'direction', m.direction, 'status', m.status, 'body', m.body, 'author', m.author, 'created_at', m.created_at,
    'sent_at', m.sent_at, 'error_code', m.error_code, 'version', m.version
);

-- A task is about one thing; the same kind about the same thing is opened once.
alter table tasks
add column subject_id uuid, -- the missed call or message it is about
add column completed_at timestamptz,
add column completed_by text, -- user id
add constraint tasks_once unique (tenant_id, kind, subject_id);

create function task_json(t tasks) returns jsonb language sql stable return jsonb_build_object(
    'id', t.id, 'lead_id', t.lead_id, 'kind', t.kind, 'subject_id', t.subject_id, 'title', t.title,
    'status', t.status, 'assigned_to', t.assigned_to, 'created_at', t.created_at, 'updated_at', t.updated_at,
    'completed_at', t.completed_at, 'completed_by', t.completed_by, 'version', t.version
);

-- Numbers that asked for no more texts. Only a digest is kept, and it outlives the erasure of the phone it is of:
-- whoever said STOP must not be texted again when the number calls once more.
create table opt_outs (
    tenant_id text not null references tenants (id) on delete cascade,
    digest text not null, -- phone_digest
    since timestamptz not null default now(),
    source text not null check (source in ('text', 'carrier', 'staff')), -- who told: the phone, the carrier's error, us
    primary key (tenant_id, digest)
);

create function phone_digest(tenant text, phone text) returns text language sql immutable return encode(
    sha256(convert_to(tenant || chr(31) || phone, 'UTF8')), 'hex'
);

alter table opt_outs enable row level security;
alter table opt_outs force row level security;
create policy own_tenant on opt_outs to ottoai_app, ottoai_privacy
using (tenant_id = (select current_tenant())) with check (tenant_id = (select current_tenant()));
grant select, insert, update, delete on opt_outs to ottoai_app;
grant select, delete on opt_outs to ottoai_privacy;
