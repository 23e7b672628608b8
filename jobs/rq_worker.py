"""RQ's worker without a fork: takes jobs out of the queues, as many at a time as may run, and has them run on the loop.

RQ's forking, its signals and its way of quitting when Redis is away are not kept
(docs/adr/0003-worker-without-fork.md); its books are: see rq_books. How a job is run is the matter of `runner`, which
process this is part of that of `worker`.
"""

import logging
import queue
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress

import psutil
import redis
import rq
from rq.utils import as_text, now
from rq.worker import WorkerStatus

from jobs.outage import Outage
from jobs.pauses import Pauses
from jobs.rq_books import Books, Taken
from jobs.runner import FUNCTIONS, Runner
from ottoai.tally import Reporter

log = logging.getLogger(__name__)

POLL = 1  # seconds that one look into empty queues lasts while nothing runs: a stop is noticed after it
PEEK = 0.05  # seconds between looks while something runs; a job that ends is noticed at once
CHORES = 1.0  # seconds between heartbeats in RQ's books and looks at what maintenance is due
GRACE = 25.0  # seconds that running jobs have to end when the worker stops; then they are given back
LAST = 3.0  # and for giving them back; supervisors kill after 35

# Takes ids from the queues, most urgent first, and from each no more than there is room for in the end.
_TAKE = """
local found = {}
for k, key in ipairs(KEYS) do
  local room = tonumber(ARGV[k]) - #found / 2
  if room > 0 then
    for _, id in ipairs(redis.call('lpop', key, room) or {}) do
      found[#found + 1] = key
      found[#found + 1] = id
    end
  end
end
return found
"""


class Worker(Books):
    """Serves in a thread of its own. `most`: how many jobs run at a time. `memory`: bytes past which it ends, 0: never.

    A quarter of the places is kept from every queue but the first, another from all but the first two, and so on: what
    is urgent does not wait for what is not.
    """

    def __init__(
        self,
        queues: Sequence[str],
        connection: redis.Redis,
        runner: Runner,
        reporter: Reporter,
        pauses: Pauses,
        *,
        most: int,
        memory: int,
    ) -> None:
        super().__init__(queues, connection, reporter.name)
        self.stopping = runner.stopping
        self.runner = runner
        self._reporter = reporter
        self._pauses = pauses
        self._most = [max(1, most - most * place // 4) for place in range(len(queues))]
        self._memory = memory
        self._process = psutil.Process()
        self._take_script = connection.register_script(_TAKE)
        self._running: set[Taken] = set()
        self._ended: queue.SimpleQueue[Taken] = queue.SimpleQueue()
        self._unwritten: list[Taken] = []  # ended, and not yet out of RQ's books
        self._outage = Outage("Redis")
        self._suspended = False
        self._chores_at = 0.0

    @property
    def busy(self) -> bool:
        """Whether anything runs."""
        return bool(self._running)

    def serve(self) -> None:
        """Work until `stopping` is set, and until what runs then has ended. An absent Redis is waited for."""
        while not self.stopping.is_set():
            try:
                self.register(self._status)
                self._outage.over()
                while not self.stopping.is_set():
                    self.run_once()
            except (redis.RedisError, OSError) as error:
                self.stopping.wait(self._outage.lost(error))
            except Exception:  # the edge of the process: what RQ trips over must not end it
                log.exception("Worker stumbled")
                self.stopping.wait(POLL)
        self._finish()
        with suppress(redis.RedisError, OSError):  # then its entry ends by itself
            self.register_death()  # type: ignore[no-untyped-call]
        self.connection.close()

    def run_once(self) -> None:
        """Begin what there is room for, and close what ended. With nothing to do, wait a moment."""
        if time.monotonic() >= self._chores_at:
            self._chores()
        found = self._take()
        if found:
            self._begin(found)
        self._settle(0 if found else PEEK)

    @property
    def _status(self) -> WorkerStatus:
        return WorkerStatus.BUSY if self._running else WorkerStatus.IDLE

    def _take(self) -> list[tuple[str, str]]:
        """(queue key, id) out of the queues, most urgent first."""
        open_ = self._open()
        rooms = {each.key: room for each, room in zip(self.queues, self._rooms(), strict=True) if each in open_}
        if not any(rooms.values()):
            return []
        if self._running:
            flat = self._take_script(keys=list(rooms), args=list(rooms.values()))
        else:  # then there is nothing to look after meanwhile
            flat = self.connection.blpop(list(rooms), POLL) or ()
        words = [as_text(word) for word in flat]
        return list(zip(words[::2], words[1::2], strict=True))

    def _open(self) -> list[rq.Queue]:
        """The queues that may be taken from: all but those that an operator stopped."""
        return [] if self._suspended else [each for each in self.queues if self._pauses.open(each.name)]

    def _rooms(self) -> list[int]:
        """How many more jobs of each queue may run."""
        rooms: list[int] = []
        taken = [each.queue.name for each in self._running]
        for place, most in enumerate(self._most):
            from_here = sum(taken.count(name) for name in self.queue_names()[place:])
            rooms.append(max(0, min([most - from_here, *rooms])))
        return rooms

    def _begin(self, found: Sequence[tuple[str, str]]) -> None:
        begun = [taken for taken in self.fetch(found) if self._start(taken)]
        if begun:
            self.enter(begun)
            self._report()

    def _start(self, taken: Taken) -> bool:
        """Have a job run, if it is one of ours."""
        if not taken.failure and taken.function not in FUNCTIONS:
            taken.failure = "unknown function"
        if taken.failure:
            log.error("Job not understood", extra={"job_id": taken.job.id, "reason": taken.failure})
            self.fail(taken)
            return False
        since = taken.job.enqueued_at
        waited = (now() - since).total_seconds() if since else 0.0

        def ended(future: "Future[str]") -> None:  # on the loop's thread
            taken.failure, taken.job.ended_at = future.result(), now()
            self._ended.put(taken)

        self._running.add(taken)
        self.runner.start(taken.function, taken.argument, taken.queue.name, waited).add_done_callback(ended)
        return True

    def _settle(self, wait: float) -> None:
        """Close what ended. While something runs, wait so many seconds for that."""
        if wait and (self._running or not self._open()):
            with suppress(queue.Empty):
                self._unwritten.append(self._ended.get(timeout=wait))
        while not self._ended.empty():
            self._unwritten.append(self._ended.get())
        if self._unwritten:
            self._running.difference_update(self._unwritten)
            self.close(self._unwritten, self._status)
            self._unwritten.clear()
            self._report()

    def _report(self) -> None:
        """Say what is being done: the job that runs for longest, and how many more."""
        oldest = min(self._running, key=lambda each: each.job.started_at or now(), default=None)
        more = f" and {len(self._running) - 1} more" if len(self._running) > 1 else ""
        current = f"{oldest.job.description}{more}" if oldest else None
        self._reporter.update(state=self._status.value, current_job=current)

    def _finish(self) -> None:
        """Let what runs end; what does not is given back."""
        self._wait_for_the_end(GRACE)
        if self._running:
            with suppress(TimeoutError):
                self.runner.give_back().result(LAST)
            self._wait_for_the_end(PEEK)

    def _wait_for_the_end(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._running and time.monotonic() < until:
            with suppress(redis.RedisError, OSError):
                self._settle(PEEK)

    def _chores(self) -> None:
        """What is due every second: hear and be heard, tidy up RQ's registries, stay small."""
        self._pauses.refresh()
        forgotten, self._suspended = self.be_heard(self._running)
        if forgotten:
            self.register(self._status)
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()  # type: ignore[no-untyped-call]
        if self._memory and (size := self._process.memory_info().rss) > self._memory:
            log.warning("Worker has grown too large; it ends, to be started afresh", extra={"megabytes": size >> 20})
            self.stopping.set()
        self._chores_at = time.monotonic() + CHORES
