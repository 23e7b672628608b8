-- Tenants and what leads to them. All run as ottoai_system.

-- name: routed
-- Tenants that own at least one of these identities ('kind:value') at a provider, with what it signs with: CallRail a
-- key, Twilio the account's token. A hook is a tenant's for all providers, and kept as CallRail's.
select
    t.id,
    t.name,
    t.timezone,
    t.hours,
    t.holidays,
    c.current as current_key,
    c.previous as previous_key
from tenants as t
left join credentials as c on t.id = c.tenant_id and c.provider = :provider and c.name in ('signing_key', 'auth_token')
where
    t.id in (
        select r.tenant_id
        from unnest(:identities::text[]) as i (identity)
        inner join tenant_routes as r
            on
                r.provider = case when i.identity like 'hook:%%' then 'callrail' else :provider end
                and r.kind = split_part(i.identity, ':', 1)
                and r.value = substr(i.identity, strpos(i.identity, ':') + 1)
    );

-- name: by_id^
-- One tenant with its signing keys for a provider.
select
    t.id,
    t.name,
    t.timezone,
    t.hours,
    t.holidays,
    c.current as current_key,
    c.previous as previous_key
from tenants as t
left join credentials as c on t.id = c.tenant_id and c.provider = :provider and c.name in ('signing_key', 'auth_token')
where t.id = :id;

-- name: add!
-- Registers a tenant with its settings ({column: value}), its head, its routes ([{provider, kind, value}]) and its
-- credentials ([{provider, name, secret}]). A setting that is not told is what the table has for it.
with
tenant as (
    insert into tenants (
        id, name, timezone, hours, holidays, texts_enabled, first_text, follow_up_text, sla_minutes
    )
    select
        :id,
        s.name,
        s.timezone,
        s.hours,
        coalesce(s.holidays, '{}'),
        coalesce(s.texts_enabled, true),
        s.first_text,
        s.follow_up_text,
        coalesce(s.sla_minutes, 120)
    from jsonb_populate_record(null::tenants, :settings::jsonb) as s
    returning id
),

head as (
    insert into heads (tenant_id) select id from tenant
),

credential as (
    insert into credentials (tenant_id, provider, name, current)
    select t.id, c.provider, c.name, c.secret
    from tenant as t, jsonb_to_recordset(:credentials::jsonb) as c (provider text, name text, secret text)
)

insert into tenant_routes (provider, kind, value, tenant_id)
select r.provider, r.kind, r.value, t.id
from tenant as t, jsonb_to_recordset(:routes::jsonb) as r (provider text, kind text, value text);

-- name: provision$
-- Registers a tenant as Clerk tells of it, with a hook path, or gives the one that is there the name that was told last.
-- Null when it has that, or a later one.
with
tenant as (
    insert into tenants as t (id, name, timezone, hours, clerk_stamp)
    values (:id, :name, :timezone, :hours, :stamp)
    on conflict (id) do update set
        name = excluded.name,
        clerk_stamp = excluded.clerk_stamp,
        version = t.version + (t.name <> excluded.name)::integer
    where excluded.clerk_stamp > t.clerk_stamp
    returning t.id, t.xmax = 0 as created
),

head as (
    insert into heads (tenant_id) select id from tenant where created
),

route as (
    insert into tenant_routes (provider, kind, value, tenant_id)
    select 'callrail', 'hook', :hook, id from tenant where created
)

select id from tenant;

-- name: change!
-- Changes those settings of a tenant that are told ({column: value}). A route of a kind it had is replaced; a credential
-- that changes stays valid as the previous one. Rescues are decided about anew when what decides when they are due has
-- changed.
with
tenant as (
    update tenants as t
    set (name, timezone, hours, holidays, texts_enabled, first_text, follow_up_text, sla_minutes, version) = (
        select
            s.name,
            s.timezone,
            s.hours,
            s.holidays,
            s.texts_enabled,
            s.first_text,
            s.follow_up_text,
            s.sla_minutes,
            t.version + (s is distinct from t)::integer -- noqa: RF03
        from jsonb_populate_record(t, :settings::jsonb) as s -- noqa: RF03
    )
    where t.id = :id
    returning t.id
),

hurried as (
    update outbox as j set due_at = now(), enqueue_at = now()
    from tenant as t
    where
        j.tenant_id = t.id and j.job = 'follow_up' and j.state = 'open'
        and :settings::jsonb ?| array['timezone', 'hours', 'holidays', 'texts_enabled', 'sla_minutes']
),

credential as (
    insert into credentials as known (tenant_id, provider, name, current)
    select t.id, c.provider, c.name, c.secret
    from tenant as t, jsonb_to_recordset(:credentials::jsonb) as c (provider text, name text, secret text)
    on conflict (tenant_id, provider, name) do update
        set current = excluded.current, previous = known.current, rotated_at = now()
),

new_route as (
    select r.*
    from jsonb_to_recordset(:routes::jsonb) as r (provider text, kind text, value text)
),

replaced as (
    delete from tenant_routes as old
    using new_route as new, tenant as t
    where old.tenant_id = t.id and old.provider = new.provider and old.kind = new.kind and old.value <> new.value
)

insert into tenant_routes (provider, kind, value, tenant_id)
select new.provider, new.kind, new.value, t.id
from tenant as t, new_route as new
where
    not exists (
        select from tenant_routes as had
        where
            had.tenant_id = t.id and had.provider = new.provider
            and had.kind = new.kind and had.value = new.value
    );

-- name: secrets_of
-- Which secrets a tenant has, not what they are.
select
    provider,
    name,
    rotated_at,
    previous is not null as previous_accepted
from credentials
where tenant_id = :id
order by provider, name;

-- name: retire$
-- Forgets the previous one of a tenant's secrets. Null when there is none.
update credentials
set previous = null
where tenant_id = :id and provider = :provider and name = :name and previous is not null
returning name;

-- name: every_secret
-- All stored secrets as they are stored.
select
    tenant_id,
    provider,
    name,
    current,
    previous
from credentials;

-- name: reseal!
-- Replaces a stored secret by the same, encrypted anew, unless it was changed meanwhile.
update credentials
set current = :new_current, previous = :new_previous
where
    tenant_id = :tenant_id and provider = :provider and name = :name
    and current = :current and previous is not distinct from :previous;

-- name: every
-- All tenants, or the one with this id, with their settings and how far their logs have come.
select
    t.id,
    t.name,
    t.timezone,
    t.hours,
    t.holidays,
    t.texts_enabled,
    t.first_text,
    t.follow_up_text,
    t.sla_minutes,
    t.created_at,
    h.seq,
    (
        select string_agg(r.provider || ' ' || r.kind || ' ' || r.value, ', ' order by r.provider, r.kind)
        from tenant_routes as r
        where r.tenant_id = t.id and r.kind <> 'hook' -- a secret
    ) as routes
from tenants as t
inner join heads as h on t.id = h.tenant_id
where (:id::text is null or t.id = :id) and t.id <> :probe
order by t.id;

-- name: provider_access^
-- What a provider's API wants to know of a tenant: its account there, the token, and the companies that are the tenant's.
-- Nothing when one of the first two is missing.
select
    a.value as account,
    c.current as token,
    array(
        select r.value from tenant_routes as r
        where r.tenant_id = :id and r.provider = :provider and r.kind = 'company'
    ) as companies
from tenant_routes as a
inner join credentials as c on a.tenant_id = c.tenant_id and a.provider = c.provider and c.name = 'api_token'
where a.tenant_id = :id and a.provider = :provider and a.kind = 'account'
order by a.value
limit 1;

-- name: owners
-- Whose these identities ('kind:value') at a provider are.
select
    i.identity,
    r.tenant_id
from unnest(:identities::text[]) as i (identity)
inner join tenant_routes as r
    on
        r.provider = :provider
        and r.kind = split_part(i.identity, ':', 1)
        and r.value = substr(i.identity, strpos(i.identity, ':') + 1);

-- name: text_access^
-- What Twilio wants to know to send a tenant's texts: account, token and number; nothing when one of them is missing. Of
-- several numbers always the same one, so that a caller sees one conversation.
select
    a.value as account,
    c.current as token,
    n.value as number,
    (
        select h.value from tenant_routes as h
        where h.tenant_id = :id and h.provider = 'callrail' and h.kind = 'hook'
    ) as hook
from tenant_routes as a
inner join credentials as c on a.tenant_id = c.tenant_id and a.provider = c.provider and c.name = 'auth_token'
inner join tenant_routes as n on a.tenant_id = n.tenant_id and a.provider = n.provider and n.kind = 'number'
where a.tenant_id = :id and a.provider = 'twilio' and a.kind = 'account'
order by a.value, n.value
limit 1;
