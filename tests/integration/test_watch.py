"""The watch: what all processes say, as indicators."""

from ottoai.indicators import INDICATORS
from ottoai.web import keys


async def test_every_indicator_is_read_and_told(app, api, base):
    monitor = app[keys.MONITOR]
    await monitor.run_once()
    report = monitor.report
    assert [each.id for each in report.readings] == [each.id for each in INDICATORS]
    found = {each.id: each for each in report.readings}
    assert found["database"].verdict == found["redis"].verdict == "ok"
    assert found["worker"].verdict == "critical"
    assert found["http_p95"].verdict == "none"
    assert found["http_p95"].note == "no data"
