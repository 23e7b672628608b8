"""The self-probe of real processes, in its own rhythm: its figures come, and nobody sees it."""

import re

import pytest

from ottoai.domain.tenants import PROBE
from tests.e2e.conftest import eventually


@pytest.mark.timeout(90)
async def test_its_figures_come_by_themselves_and_it_is_in_no_list(product):
    def came_through() -> bool:
        text = product.run("curl", "-s", f"{product.base}/metrics").stdout
        names = ("probe_event_seconds_count", "probe_job_seconds_count")
        return all(re.search(rf"^{name}\S* [1-9]", text, re.MULTILINE) for name in names)

    await eventually(came_through, 60, every=0.5)
    assert PROBE not in product.ottoai("tenant", "list").stdout
    assert not product.log(message="Event test.probe published to 1 channels")
    assert not product.log(message="Self-probe failed", part="event")
