-- Who works at a tenant, as Clerk tells it.
--
-- Clerk's events come in any order, some of them twice. So each fact keeps its stamp, which says when it happened and
-- which delivery told it: what has the greater stamp is what counts, whenever it was heard. A stamp begins with the time
-- in milliseconds and compares as text.

create table users (
    tenant_id text not null references tenants (id) on delete cascade,
    user_id text not null, -- `sub` of the user's tokens
    role text not null check (role in ('member', 'manager', 'service')),
    member boolean not null, -- false: was removed; kept, so that what happened before stays told
    membership_stamp text collate "C" not null, -- of role and member
    name text, -- null: not told, or the user is gone
    gone boolean not null default false, -- no such user any more, anywhere
    person_stamp text collate "C" not null default '', -- of name and gone
    joined_at timestamptz, -- when first heard to be a member; null: so far only that the user is none
    version integer not null default 1, -- rises with every change
    primary key (tenant_id, user_id)
);

create index users_by_user on users (user_id);

-- What was last told of each user, whatever tenants the user belongs to: a membership told later may be of earlier.
-- Forgotten after a week, when all that Clerk sends again has come.
create table clerk_users (
    user_id text primary key,
    name text,
    gone boolean not null,
    stamp text collate "C" not null,
    heard_at timestamptz not null default now()
);

create index clerk_users_by_age on clerk_users (heard_at);

alter table tenants add column clerk_stamp text collate "C" not null default ''; -- of the name; empty: not Clerk's

-- A user as clients see it.
create function user_json(u users) returns jsonb language sql stable return jsonb_build_object(
    'id', u.user_id, 'name', u.name, 'role', u.role, 'active', u.member and not u.gone, 'version', u.version
);

alter table users enable row level security;
alter table users force row level security;
create policy own_tenant on users to ottoai_app
using (tenant_id = (select current_tenant())) with check (tenant_id = (select current_tenant()));
create policy system_finds on users for select to ottoai_system using (true); -- at which tenants a user works
grant select, insert, update on users to ottoai_app;
grant select on users to ottoai_system;

alter table clerk_users enable row level security; -- nobody's: the system role alone
alter table clerk_users force row level security;
create policy system_hears on clerk_users to ottoai_system using (true) with check (true); -- users of all tenants
grant select, insert, update, delete on clerk_users to ottoai_system;
