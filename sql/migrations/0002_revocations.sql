-- Tokens that no longer count, though they have not expired: those of a user, a tenant, or a user of a tenant that were
-- issued up to a moment.

create table revocations (
    tenant_id text references tenants (id) on delete cascade, -- null: in every tenant
    user_id text, -- null: every user of the tenant
    valid_after timestamptz not null, -- tokens issued up to then are refused
    revoked_at timestamptz not null default clock_timestamp(), -- when this row was last written
    unique nulls not distinct (tenant_id, user_id),
    check (tenant_id is not null or user_id is not null)
);

create index revocations_by_time on revocations (revoked_at);

alter table revocations enable row level security;
alter table revocations force row level security;
create policy own_tenant on revocations to ottoai_app
using (tenant_id = (select current_tenant())) with check (tenant_id = (select current_tenant()));
create policy system_revokes on revocations to ottoai_system using (true) with check (true); -- tokens of all tenants
grant select, insert, update on revocations to ottoai_system;
