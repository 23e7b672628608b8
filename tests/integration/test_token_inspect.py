"""`python -m ottoai token inspect`: what is wrong with a token, in words. The guide: "Verify JWT token is valid and
contains org_id".
"""

import re
import time

import jwt
import pytest

from ottoai.domain.tenants import PROBE
from tests.conftest import SECRET

NOW = int(time.time())
GOOD = {"sub": "ann", "org_id": "demo", "iat": NOW - 60, "exp": NOW + 36_000}


def made(key: str = SECRET, algorithm: str = "HS256", **claims: object) -> str:
    given = {name: value for name, value in {**GOOD, **claims}.items() if value is not None}
    return jwt.encode(given, key if algorithm != "none" else None, algorithm)


WRONG = {
    "expired": (made(exp=NOW - 90, iat=NOW - 900), r"expired.* It expired at 20\d\d-.* UTC, \d+ s ago"),
    "no org": (made(org_id=None), "it names no org \\(org_id or o.id\\)"),
    "two orgs": (made(o={"id": "other"}), "it names more than one org"),
    "wrong key": (made(key="k" * 40), "signed with another key than that of JWT_SECRET"),
    "no exp": (made(exp=None), '"exp"'),
    "no user": (made(sub=""), "its sub is no id"),
    "from the future": (made(iat=NOW + 30_000), "Clocks differ"),
    "unsigned": (made(algorithm="none"), "algorithm is none that is accepted"),
    "the probe's": (made(org_id=PROBE), "its org is none that has users"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_it_says_what_is_wrong(command, demo, case):
    token, told = WRONG[case]
    code, said = await command("token", "inspect", "-", typed=token + "\n")
    assert code == 1
    (line,) = [line for line in said.splitlines() if line.startswith("NOT VALID: ")]
    assert re.search(told, line), line
    assert token not in said


async def test_it_says_what_is_right(command, demo):
    code, said = await command("token", "inspect", made())
    assert code == 0
    assert "valid: tenant demo, user ann, role member, for another " in said
    assert '"org_id": "demo"' in said


async def test_a_revoked_one_and_one_that_is_none(command, demo):
    assert (await command("tenant", "revoke", "demo"))[0] == 0
    code, said = await command("token", "inspect", made())
    assert (code, "revoked" in said, "tenant revoke" in said) == (1, True, True)
    code, said = await command("token", "inspect", "nonsense")
    assert (code, "This is no JSON Web Token" in said) == (1, True)
