"""Passes on to the metrics what the database tells of itself."""

from ottoai.db import Observer
from ottoai.metrics import Metrics


class DatabaseFigures(Observer):
    """Passes what the database tells on to the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def query(self, name: str, seconds: float) -> None:
        """See Observer."""
        self._metrics.db_query_duration_seconds.observe(seconds, query=name)

    def waited(self, seconds: float) -> None:
        """See Observer."""
        self._metrics.db_pool_wait_seconds.observe(seconds)
