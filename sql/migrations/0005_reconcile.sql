-- Calls that no webhook told of: how a call is found by either of its ids, and how far each tenant's calls were compared
-- with the provider's list of them.

-- A webhook names a call by a number and by its id in the provider's API (CallRail: CAL…), the API by the latter alone.
-- external_id is the number; of a call that only the API has told of yet, both columns hold the API's id.
alter table calls add column resource_id text;
create unique index calls_by_resource on calls (tenant_id, provider, resource_id) where resource_id is not null;

-- The call that a report is about; null when it is the first that is heard of it. A report and a call of which each lacks
-- the id that the other has are the same call if the same caller began it at the same moment: so are found the calls of
-- before this column. `external` of a report without a number is the API's id.
create function find_call(
    tenant text, via text, external text, resource text, caller text, began timestamptz
) returns uuid
language plpgsql stable as $$
declare
    found_id uuid;
begin
    -- One after the other, since each is a look into one unique index; an «or» of both is none.
    select c.id into found_id from calls as c
    where c.tenant_id = tenant and c.provider = via and c.external_id = external;
    if found_id is null and resource is not null then
        select c.id into found_id from calls as c
        where c.tenant_id = tenant and c.provider = via and c.resource_id = resource;
    end if;
    if found_id is null and caller is not null and (resource is null or resource = external) then
        select c.id into found_id from calls as c
        where
            c.tenant_id = tenant and c.provider = via and c.started_at = began and c.customer_phone = caller
            and case when resource is null then c.resource_id = c.external_id else c.resource_id is null end
        order by c.id
        limit 1;
    end if;
    return found_id;
end
$$;

-- Holds back, until this transaction ends, whoever else has a report about the call: one lock for each of its ids, since
-- another report may carry one of them alone, and in the order of their keys, so that no two reports wait for each other.
create function lock_call(tenant text, via text, external text, resource text) returns void
language plpgsql as $$
declare
    one bigint := hashtextextended(tenant || chr(31) || via || chr(31) || external, 0);
    other bigint := hashtextextended(tenant || chr(31) || via || chr(31) || resource, 0);
begin
    perform pg_advisory_xact_lock(least(one, other));
    if one <> other then
        perform pg_advisory_xact_lock(greatest(one, other));
    end if;
end
$$;

create table reconciliations (
    tenant_id text primary key references tenants (id) on delete cascade,
    account text not null, -- the provider's account that all of this is about
    companies text[] not null default '{}', -- companies of the account that a call has proved to be the tenant's
    settled_until timestamptz, -- the watermark: whatever began before is final and in our log; null: nothing was read
    due_at timestamptz not null default now(), -- when to compare again
    succeeded_at timestamptz, -- when everything up to then had last been compared
    failures integer not null default 0, -- since the last success
    error text -- what the last attempt failed with; null when it did not
);

alter table reconciliations enable row level security;
alter table reconciliations force row level security;
create policy own_tenant on reconciliations to ottoai_app
using (tenant_id = (select current_tenant())) with check (tenant_id = (select current_tenant()));
create policy system_schedules on reconciliations for select to ottoai_system using (true); -- whose turn it is
grant select, insert, update on reconciliations to ottoai_app;
grant select on reconciliations to ottoai_system;
