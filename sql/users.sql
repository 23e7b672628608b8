-- Who works at a tenant, as Clerk tells it. `stamp` says when something happened; see migration 0006.

-- name: hear^
-- Remembers what is told of a user, unless something later was told. Returns what counts now. Runs as ottoai_system.
insert into clerk_users as c (user_id, name, gone, stamp)
values (:user_id, :name, :gone, :stamp)
on conflict (user_id) do update set
    name = case when excluded.stamp > c.stamp then excluded.name else c.name end,
    gone = case when excluded.stamp > c.stamp then excluded.gone else c.gone end,
    stamp = greatest(c.stamp, excluded.stamp),
    heard_at = now()
returning user_id, name, gone, stamp;

-- name: heard^
-- What was last told of a user, if anything. Runs as ottoai_system.
select
    user_id,
    name,
    gone,
    stamp
from clerk_users
where user_id = :user_id;

-- name: tenants_of
-- The tenants that know a user. Runs as ottoai_system.
select tenant_id from users where user_id = :user_id order by tenant_id;

-- name: claim$
-- Takes the idempotency key of an event that changes nothing else of the tenant; null when it was taken.
insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, trace_id)
values (:tenant_id, :provider, :kind, :external_id, :variant, 'processed', :trace_id)
on conflict do nothing
returning id;

-- name: merge^
-- Brings what is told of a user into the tenant's row, as far as it is newer: the membership, the person, or both (an
-- empty stamp: not told), and appends what changed for others to see. Only a membership makes a new row. The lock holds
-- back others who tell of the same user, so that what `known` reads is what this meets.
-- Returns tenant_id, fresh (false: told before, nothing is done), epoch and events (JSON array of log rows).
select pg_advisory_xact_lock(hashtextextended(:tenant_id || chr(31) || 'user' || chr(31) || :user_id, 0));
with
claim as (
    insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, trace_id)
    values (:tenant_id, :provider, :kind, :external_id, :variant, 'processed', :trace_id)
    on conflict do nothing
    returning id
),

known as (
    select u.*, user_json(u) - 'version' as shape from claim, users as u
    where u.tenant_id = :tenant_id and u.user_id = :user_id
),

news as (
    select
        :membership_stamp > coalesce(k.membership_stamp, '') as of_membership,
        :person_stamp > coalesce(k.person_stamp, '') as of_person
    from claim left join known as k on true
),

merged as (
    select
        case when n.of_membership then :role else k.role end as role,
        case when n.of_membership then :member::boolean else k.member end as member,
        greatest(:membership_stamp, k.membership_stamp) as membership_stamp,
        case when n.of_person then :name else k.name end as name,
        case when n.of_person then :gone::boolean else coalesce(k.gone, false) end as gone,
        greatest(:person_stamp, k.person_stamp) as person_stamp,
        k.joined_at,
        k.shape as known_shape
    from news as n left join known as k on true
    where (n.of_membership or n.of_person) and (:membership_stamp <> '' or k.user_id is not null)
),

saved as (
    insert into users as u (
        tenant_id, user_id, role, member, membership_stamp, name, gone, person_stamp, joined_at
    )
    select
        :tenant_id, :user_id, m.role, m.member, m.membership_stamp, m.name, m.gone, m.person_stamp,
        coalesce(m.joined_at, case when m.member and not m.gone then now() end)
    from merged as m
    on conflict (tenant_id, user_id) do update set
        role = excluded.role,
        member = excluded.member,
        membership_stamp = excluded.membership_stamp,
        name = excluded.name,
        gone = excluded.gone,
        person_stamp = excluded.person_stamp,
        joined_at = excluded.joined_at,
        version = u.version + 1
    returning u.user_id, u.joined_at, user_json(u) as shape
),

drafts as (
    select
        case when m.joined_at is null then 'identity.user.created' else 'identity.user.updated' end as event,
        s.user_id,
        s.shape as data
    from saved as s, merged as m
    where s.joined_at is not null and (m.joined_at is null or s.shape - 'version' is distinct from m.known_shape)
)

select
    :tenant_id as tenant_id,
    exists(select from claim) as fresh,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(:tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d)) from drafts as d)) as e
    ) as events;
