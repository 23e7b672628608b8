-- Run by PostgreSQL's image when it makes a new database: the login that DATABASE_URL names. It is no superuser, since
-- row-level security binds none and the processes refuse to run as one. CREATEROLE: the migrations make two roles.
\getenv password DATABASE_PASSWORD
create role ottoai login createrole password :'password';
create database ottoai owner ottoai;
-- The superuser is for `docker compose exec postgres psql --username=postgres`; over the network it has no way in.
alter role postgres password null;
