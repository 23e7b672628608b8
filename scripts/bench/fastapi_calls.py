"""The same endpoint as others would write it: FastAPI, SQLAlchemy with asyncpg, uvicorn. Run by an interpreter that has
them, which this one has not; see reads.py.

    python scripts/bench/fastapi_calls.py PORT      with DATABASE_URL and JWT_SECRET in the environment

It lists a tenant's calls newest first, by the same keyset, out of the same table under the same policies, and validates
what it answers. It has no limits, no log, no figures, and takes any token: what it is measured by is reading.
"""

import os
import sys
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Query
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

TENANT = "bench-0"


class Base(DeclarativeBase):
    """Of all tables."""


class CallRow(Base):
    """The table."""

    __tablename__ = "calls"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    lead_id: Mapped[UUID | None]
    provider: Mapped[str]
    external_id: Mapped[str]
    direction: Mapped[str | None]
    status: Mapped[str]
    answered: Mapped[bool | None]
    voicemail: Mapped[bool | None]
    missed: Mapped[bool]
    duration_seconds: Mapped[int | None]
    started_at: Mapped[datetime]
    customer_phone: Mapped[str | None]
    customer_name: Mapped[str | None]
    tracking_phone: Mapped[str | None]
    source: Mapped[str | None]
    version: Mapped[int]


class Call(BaseModel):
    """A call, as the API shows it."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    lead_id: UUID | None
    provider: str
    external_id: str
    direction: str | None
    status: str
    answered: bool | None
    voicemail: bool | None
    missed: bool
    duration_seconds: int | None
    started_at: datetime
    customer_phone: str | None
    customer_name: str | None
    tracking_phone: str | None
    source: str | None
    version: int


class Page(BaseModel):
    """One page."""

    items: list[Call]
    next_cursor: str | None


URL = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://", 1)
ENGINE = create_async_engine(
    URL, pool_size=10, max_overflow=0, connect_args={"server_settings": {"role": "ottoai_app", "app.tenant_id": TENANT}}
)
SESSIONS = async_sessionmaker(ENGINE, expire_on_commit=False)
app = FastAPI()


async def session() -> Any:
    """One for each request."""
    async with SESSIONS() as opened:
        yield opened


def signed_in(authorization: Annotated[str, Header()]) -> None:
    """Whoever asks brings a token."""
    if not authorization.startswith("Bearer "):
        raise HTTPException(401)


@app.get("/api/calls", dependencies=[Depends(signed_in)])
async def list_calls(
    on: Annotated[AsyncSession, Depends(session)],
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: str | None = None,
) -> Page:
    """The tenant's calls, newest first."""
    wanted = select(CallRow).where(CallRow.tenant_id == TENANT)
    if cursor:
        moment, _, row_id = cursor.partition("|")
        wanted = wanted.where(
            tuple_(CallRow.started_at, CallRow.id) < tuple_(datetime.fromisoformat(moment), UUID(row_id))
        )
    wanted = wanted.order_by(CallRow.started_at.desc(), CallRow.id.desc()).limit(limit + 1)
    rows = list((await on.scalars(wanted)).all())
    last = rows[limit - 1] if len(rows) > limit else None
    following = f"{last.started_at.isoformat()}|{last.id}" if last else None
    return Page(items=[Call.model_validate(row) for row in rows[:limit]], next_cursor=following)


@app.get("/ready")
async def ready(on: Annotated[AsyncSession, Depends(session)]) -> dict[str, bool]:
    """Whether it answers."""
    await on.execute(text("select 1"))
    return {"database": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
