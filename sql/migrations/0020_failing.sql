-- Open jobs that failed before are looked through by operators, the latest first; of all that is open they are few.
create index outbox_failing on outbox (due_at) where state = 'open' and traceback is not null;
