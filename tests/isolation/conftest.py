"""Two tenants full of canaries."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import add_tenant
from tests.isolation.canaries import A, B, plant


@pytest.fixture
async def two(db: Any, database_url: str) -> None:
    """The tenants A and B, with a row in every table."""
    for tenant in (A, B):
        await add_tenant(db, tenant.id, company=tenant.company, number=tenant.number)
        plant(database_url, tenant)


@pytest.fixture
def token_a(make_token: Callable[..., str]) -> str:
    return make_token(A.id, A.user)


@pytest.fixture
def token_b(make_token: Callable[..., str]) -> str:
    return make_token(B.id, B.user)
