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
-- Keeps a delivery of a company that nobody has added, unless `bound` of them are kept. Null when they are.
insert into unclaimed_deliveries (provider, kind, identities, headers, url, body, received_at)
select :provider, :kind, :identities::text[], :headers::jsonb, :url, :body::bytea, :received_at
where (select count(*) from (select from unclaimed_deliveries limit :bound) as kept) < :bound
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

-- name: release_unclaimed!
-- Forgets a kept delivery once it has been dealt with.
delete from unclaimed_deliveries where id = :id;
