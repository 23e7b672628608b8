-- How far each tenant's calls have been compared with its provider's list of them.

-- name: due
-- Tenants to compare now, longest waiting first: those with an account and an API token at CallRail. Run as
-- ottoai_system.
select t.id
from tenants as t
left join reconciliations as r on t.id = r.tenant_id
where
    coalesce(r.due_at, '-infinity') <= now()
    and exists (
        select from tenant_routes as a where a.tenant_id = t.id and a.provider = 'callrail' and a.kind = 'account'
    )
    and exists (
        select from credentials as c where c.tenant_id = t.id and c.provider = 'callrail' and c.name = 'api_token'
    )
order by coalesce(r.due_at, '-infinity'), t.id
limit :limit;

-- name: begin^
-- Takes a tenant for `lease` and returns where its comparison stands, with the database's time. Of another account
-- nothing has been compared.
insert into reconciliations as r (tenant_id, account, due_at)
values (:tenant_id, :account, now() + :lease::interval)
on conflict (tenant_id) do update set
    account = excluded.account,
    companies = case when r.account = excluded.account then r.companies else '{}' end,
    settled_until = case when r.account = excluded.account then r.settled_until end,
    due_at = excluded.due_at
returning settled_until, companies, failures, now() as at;

-- name: stand^
-- The same without taking it: for an operator, who changes nothing of it.
select
    (select settled_until from reconciliations where tenant_id = :tenant_id and account = :account) as settled_until,
    coalesce(
        (select companies from reconciliations where tenant_id = :tenant_id and account = :account), '{}'
    ) as companies,
    0 as failures,
    now() as at;

-- name: advance!
-- Moves the watermark, forward only: what began before it has been committed. Adds companies.
update reconciliations
set
    settled_until = greatest(settled_until, :settled_until::timestamptz),
    companies = array(select distinct unnest(companies || :companies::text[]))
where tenant_id = :tenant_id;

-- name: succeed!
-- Notes that everything was compared up to now.
update reconciliations
set due_at = now() + :wait::interval, succeeded_at = now(), failures = 0, error = null
where tenant_id = :tenant_id;

-- name: put_off!
-- Gives the tenant back; `error` says what went wrong, null when there is only more to do.
update reconciliations
set
    due_at = now() + :wait::interval,
    failures = case when :error::text is null then 0 else failures + 1 end,
    error = :error
where tenant_id = :tenant_id;

-- name: compare
-- What our log knows of these calls (JSON array of {external_id, resource_id, facts}), in their order. `version` is 0 for
-- a call it does not know; `lacks` says that it is not known as completed, or as it is told; `reported`, that a webhook
-- has told of it.
select
    coalesce(c.version, 0) as version,
    c.id is null or c.status <> 'completed' or not to_jsonb(c) @> (l.call -> 'facts') - 'started_at'
    or coalesce((l.call -> 'facts' ->> 'started_at')::timestamptz < c.started_at, false) as lacks,
    coalesce(c.external_id is distinct from c.resource_id, false) as reported
from jsonb_array_elements(:calls::jsonb) with ordinality as l (call, place)
left join calls as c
    on
        c.tenant_id = :tenant_id
        and c.id = find_call(
            :tenant_id, :provider, l.call ->> 'external_id', l.call ->> 'resource_id',
            l.call -> 'facts' ->> 'customer_phone', (l.call -> 'facts' ->> 'started_at')::timestamptz
        )
order by l.place;
