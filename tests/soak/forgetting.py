"""Time that passes faster for what is kept: rows of some minutes are made a month and a year old, and retention, which
is asked for as beat asks for it, takes them away. So its tables level off within an hour as they do within a year.
"""

import asyncio
from contextlib import closing

import psycopg2

from ottoai import queue
from ottoai.queue import Queues
from tests.chaos.truth import Logs
from tests.soak.stand import Stand

# Table, the column that its age is told by, and how old its rows become: older than anything is kept.
AGED = (
    ("events", "ts", "31 days"),
    ("payloads", "received_at", "31 days"),
    ("unclaimed_deliveries", "received_at", "31 days"),
    ("idempotency_keys", "created_at", "400 days"),
    ("request_keys", "created_at", "2 days"),
    ("ops_minutes", "at", "2 days"),
)
JOBS = "update outbox set finished_at = finished_at - interval '8 days' where finished_at < %s and state <> 'open'"


class Forgetting:
    """`kept`: seconds after which a row is old; `every`: seconds between two runs of retention."""

    def __init__(self, stand: Stand, logs: Logs, kept: float, every: float) -> None:
        self.stand = stand
        self.logs = logs
        self.kept = kept
        self.every = every
        self.runs = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.every)
            await asyncio.to_thread(self.once)

    def once(self) -> None:
        """Make what is older than `kept` old enough, and ask for retention."""
        with closing(psycopg2.connect(self.stand.database.url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("select now() - make_interval(secs => %s)", (self.kept,))
            (before,) = cursor.fetchone()
            self.logs.read()  # what will be gone is known from now on; what comes from now on stays
            cursor.execute("select tenant_id, max(seq) from events where ts < %s group by tenant_id", (before,))
            for tenant, seq in cursor.fetchall():
                if log := self.logs.of.get(tenant):
                    log.deleted_to = max(log.deleted_to, seq)  # said before it is so
            for table, column, age in AGED:
                cursor.execute(
                    f"update {table} set {column} = {column} - interval '{age}'"
                    f" where {column} < %s and {column} > now() - interval '1 day'",
                    (before,),
                )
            cursor.execute(JOBS, (before,))
        with closing(queue.client(self.stand.config)) as connection:
            Queues(connection).enqueue_periodic("retention")
        self.runs += 1
