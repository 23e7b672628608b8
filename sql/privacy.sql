-- What is kept of a tenant, or of one phone of a tenant, to give it out or to erase it. Run as ottoai_privacy, but for
-- `elsewhere`, which is ottoai_system's.

-- name: elsewhere
-- For each of several refused ids, in order: whether it is another tenant's.
select exists_elsewhere(a.asker, a.noun, a.wanted) as foreign_id
from unnest(:askers::text[], :nouns::text[], :wanted::text[]) with ordinality as a (asker, noun, wanted, n)
order by a.n;

-- name: tables
-- The tables with tenants' rows and how many blocks each has; those that refer to others come first.
select
    name,
    blocks
from tenant_tables();

-- name: tenant_exists$
-- Whether there is such a tenant.
select true from tenants where id = :tenant_id;

-- name: own_number$
-- Whether a phone is one of the tenant's own.
select true from tenant_routes where tenant_id = :tenant_id and kind = 'number' and value = :phone;

-- name: ids_about$
-- The ids of all that hangs on a phone: its lead, its calls by our ids and the providers', their rescues, texts and
-- deliveries.
with
person as (
    select id from leads where tenant_id = :tenant_id and phone = :phone
),

their_calls as (
    select
        id,
        external_id
    from calls
    where tenant_id = :tenant_id and (customer_phone = :phone or lead_id in (select id from person))
),

rescues as (
    select id from missed_calls
    where
        tenant_id = :tenant_id
        and (lead_id in (select id from person) or call_id in (select id from their_calls))
),

texts as (
    select
        id,
        provider_id
    from messages
    where tenant_id = :tenant_id and lead_id in (select id from person)
),

deliveries as (
    select id from idempotency_keys
    where
        tenant_id = :tenant_id
        and external_id in (
            select external_id from their_calls
            union all
            select provider_id from texts
        )
)

select array(
    select id::text from person
    union
    select id::text from their_calls
    union
    select external_id from their_calls
    union
    select id::text from rescues
    union
    select id::text from texts
    union
    select id::text from deliveries
) as ids;

-- name: rows
-- The tenant's rows in a stretch of a table's blocks, as JSON text; with `digits`, those about one phone.
select found.content::text
from tenant_rows(:tab, :first, :count, :digits, :ids::text[]) as found (content);

-- name: erase_rows$
-- Deletes what `rows` gives; how many that were.
select erase_rows(:tab, :first, :count, :digits, :ids::text[]) as gone;

-- name: erase_events$
-- Takes out of a stretch of the log what could tell whom its events were about, in place, so that no number is missing;
-- how many that were. Who has read them before has another history: the epoch says so, in the same commit.
with
changed as (
    update events as e set data = pseudonymised(e.data, :digits)
    where
        e.tenant_id = :tenant_id and e.seq > :after and e.seq <= :until
        and mentions(to_jsonb(e), :digits, :ids::text[])
        and e.data is distinct from pseudonymised(e.data, :digits)
    returning e.seq
),

told as (
    update heads set epoch = epoch + 1 where tenant_id = :tenant_id and exists (select from changed)
)

select count(*) from changed;

-- name: erase_calls$
-- Takes the person out of their calls; how many that were. The calls stay, so that a delivery about one that comes
-- again, or a look at the provider's books, does not make it anew.
with changed as (
    update calls as c
    set
        lead_id = null,
        customer_phone = null,
        customer_name = null,
        reports = (
            select coalesce(jsonb_object_agg(r.rank, (
                select coalesce(jsonb_object_agg(f.key, f.value), '{}')
                from jsonb_each(r.facts) as f (key, value)
                where
                    f.key in (
                        'answered', 'direction', 'duration_seconds', 'source', 'started_at', 'tracking_phone', 'voicemail'
                    )
            )), '{}')
            from jsonb_each(c.reports) as r (rank, facts)
        ),
        updated_at = now(),
        version = c.version + 1
    where
        c.tenant_id = :tenant_id
        and (
            c.customer_phone = :phone
            or c.lead_id in (select l.id from leads as l where l.tenant_id = :tenant_id and l.phone = :phone)
        )
    returning c.id
)

select count(*) from changed;

-- name: new_epoch!
-- The tenant's history is another one from here on: what clients hold of it, and what is cached, counts no more.
update heads set epoch = epoch + 1 where tenant_id = :tenant_id;

-- name: erase_tenant!
-- Deletes what is left of the tenant, and the tenant. That its tokens are refused stays on record.
with users as (
    delete from revocations where tenant_id = :tenant_id and user_id is not null
)

delete from tenants where id = :tenant_id;
