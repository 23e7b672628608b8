"""RQ by itself, for comparison: `python -m scripts.bench.bare_rq CLASS COUNT` prints how many seconds one worker takes.

The worker class that ours is made from, and the default one, which forks for every job; the same Redis (REDIS_URL), the
same serializer, results not kept, as with ours.
"""

import logging
import os
import sys
import time

import redis
import rq
from rq.serializers import JSONSerializer

CLASSES: dict[str, type[rq.worker.BaseWorker]] = {"SimpleWorker": rq.SimpleWorker, "Worker": rq.Worker}


def nothing(_: str) -> None:
    """What a job does that does nothing."""


def main(name: str, count: int) -> None:
    """Enqueue so many empty jobs, work them off, print how long that took."""
    connection = redis.Redis.from_url(os.environ["REDIS_URL"])
    queue = rq.Queue("bare", connection=connection, serializer=JSONSerializer)
    for n in range(count):
        queue.enqueue("scripts.bench.bare_rq.nothing", str(n), result_ttl=0)
    worker = CLASSES[name]([queue], connection=connection, serializer=JSONSerializer, log_job_description=False)
    started = time.monotonic()
    worker.work(burst=True, logging_level=logging.ERROR)
    print(time.monotonic() - started)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
