-- Deliveries that changed nothing yet: quarantined, or nobody's.

-- name: quarantine^
-- Keeps a well-signed delivery that cannot be used, with the reason, once. Returns tenant_id, fresh, epoch and events.
with
claim as (
    insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, trace_id)
    values (:tenant_id, :provider, :kind, :external_id, :variant, 'quarantined', :trace_id)
    on conflict do nothing
    returning id
),

payload as (
    insert into payloads (idempotency_key_id, tenant_id, headers, body, error)
    select id, :tenant_id, :headers::jsonb, :body::bytea, :error from claim
),

drafts as (
    select
        'system.webhook.quarantined' as event,
        'warning' as severity,
        jsonb_build_object('id', id, 'provider', :provider, 'kind', :kind, 'error', :error) as data
    from claim
)

select
    :tenant_id as tenant_id,
    exists(select from claim) as fresh,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(:tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d)) from drafts as d)) as e
    ) as events;

-- name: claimed_by$
-- The trace in which a delivery was first recorded; null when it was not.
select trace_id
from idempotency_keys
where
    tenant_id = :tenant_id and provider = :provider and kind = :kind
    and external_id = :external_id and variant = :variant;

-- name: note^
-- Keeps a delivery that changes nothing, once. Returns what record_report does.
with
claim as (
    insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, trace_id)
    values (:tenant_id, :provider, :kind, :external_id, :variant, 'processed', :trace_id)
    on conflict do nothing
    returning id
),

payload as (
    insert into payloads (idempotency_key_id, tenant_id, headers, body)
    select id, :tenant_id, :headers::jsonb, :body::bytea from claim
)

select
    :tenant_id as tenant_id,
    exists(select from claim) as fresh,
    '[]' as jobs,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    '[]' as events;

-- name: keep_unclaimed$
-- Keeps a delivery of a company that nobody has added, unless `bound` of its provider are kept. Null when they are.
insert into unclaimed_deliveries (provider, kind, identities, headers, url, body, received_at)
select :provider, :kind, :identities::text[], :headers::jsonb, :url, :body::bytea, :received_at
where (select count(*) from (select from unclaimed_deliveries where provider = :provider limit :bound) as kept) < :bound
returning id;

-- name: unclaimed_of
-- The kept deliveries that a tenant's routes lead to, oldest first.
select
    u.id,
    u.provider,
    u.kind,
    u.headers,
    u.url,
    u.body,
    u.received_at
from unclaimed_deliveries as u
where
    u.identities && (
        select array_agg(r.kind || ':' || r.value) from tenant_routes as r where r.tenant_id = :tenant and r.provider = u.provider
    )
order by u.id;

-- name: unclaimed_at
-- The kept deliveries of a provider with this identity ('kind:value'), oldest first.
select
    id,
    provider,
    kind,
    headers,
    body,
    received_at
from unclaimed_deliveries
where provider = :provider and identities && array[:identity]
order by id;

-- name: release_unclaimed!
-- Forgets a kept delivery once it has been dealt with.
delete from unclaimed_deliveries where id = :id;

-- name: quarantined
-- A page of quarantined deliveries whose payload is kept, oldest first; the cursor is the last row's (received_at, id).
-- The oldest payload says from where on there can be any: the expired ones are passed by at once.
select
    k.id,
    k.tenant_id,
    k.provider,
    k.kind,
    k.trace_id,
    p.error,
    k.created_at as received_at
from idempotency_keys as k
inner join payloads as p on k.id = p.idempotency_key_id
where
    k.outcome = 'quarantined'
    and k.created_at >= (select min(o.received_at) from payloads as o)
    and (:tenant::text is null or k.tenant_id = :tenant)
    and (:provider::text is null or k.provider = :provider)
    and (:kind::text is null or k.kind = :kind)
    and (:since::timestamptz is null or k.created_at >= :since)
    and (:until::timestamptz is null or k.created_at < :until)
    and (:after_at::timestamptz is null or (k.created_at, k.id) > (:after_at, :after_id::uuid))
order by k.created_at, k.id
limit :page_size;

-- name: one_quarantined^
-- A delivery that is or was quarantined, with its payload.
select
    k.id,
    k.tenant_id,
    k.provider,
    k.kind,
    k.trace_id,
    k.outcome,
    p.error,
    p.headers,
    p.body,
    k.created_at as received_at
from idempotency_keys as k
left join payloads as p on k.id = p.idempotency_key_id
where k.id = :id::uuid and k.outcome in ('quarantined', 'replayed');

-- name: hold_quarantined^
-- A quarantined delivery with its payload, held until the transaction ends; null when it is not quarantined any more.
select
    k.provider,
    k.kind,
    p.headers,
    p.body,
    coalesce(p.received_at, k.created_at) as received_at
from idempotency_keys as k
left join payloads as p on k.id = p.idempotency_key_id
where k.tenant_id = :tenant_id and k.id = :id::uuid and k.outcome = 'quarantined'
for update of k;

-- name: end_quarantine!
-- A delivery has had its effect.
update idempotency_keys set outcome = 'replayed' where tenant_id = :tenant_id and id = :id::uuid;

-- name: keep_error!
-- Why a delivery stays quarantined.
update payloads set error = :error where tenant_id = :tenant_id and idempotency_key_id = :id::uuid;

-- name: count_quarantined$
-- How many deliveries are quarantined and their payload is kept, over all tenants, up to a bound.
select count(*)
from (
    select
    from idempotency_keys as k
    inner join payloads as p on k.id = p.idempotency_key_id
    where k.outcome = 'quarantined' and k.created_at >= (select min(o.received_at) from payloads as o)
    order by k.created_at, k.id -- by its index; else all payloads may be read
    limit :bound
) as bounded;
