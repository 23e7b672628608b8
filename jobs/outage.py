"""A store that is away: said once when it goes, once when it is back, and asked again ever more patiently."""

import logging
import random

log = logging.getLogger(__name__)

FIRST_WAIT = 0.1  # most outages are a dropped connection, over before anyone looks
LONGEST_WAIT = 2.0  # so that work resumes within two seconds of the store's return


class Outage:
    """The outages of one store, as one loop sees them. `name` is what the log calls the store."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._misses = 0

    def lost(self, error: BaseException) -> float:
        """Note that the store does not answer; return how many seconds to wait before asking again."""
        if not self._misses:
            log.warning("%s lost", self._name, extra={"error": error})
        self._misses += 1
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._misses, 10))
        return random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, hides nothing

    def over(self) -> None:
        """Note that the store answers."""
        if self._misses:
            log.info("%s is back", self._name, extra={"attempts": self._misses})
        self._misses = 0
