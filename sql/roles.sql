-- Who a connection acts as.

-- name: who_am_i^
-- The current role and whether it could pass row-level security by.
select
    rolname as name,
    rolsuper as superuser,
    rolbypassrls as bypasses
from pg_roles
where rolname = current_user;

-- name: applied_migrations
-- Names of the migrations that were applied.
select migration_id as name from _yoyo_migration;

-- name: ping^
-- Whether the database answers.
select 1 as pong;
