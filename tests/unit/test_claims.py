"""What a token says, and what a key set holds: from values alone."""

import json
import time

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from ottoai.domain.roles import Role, role_of
from ottoai.errors import Forbidden, Unauthenticated
from ottoai.web.auth import demand
from ottoai.web.claims import principal_of
from ottoai.web.jwks import usable
from tests.issuer import claims_of, jwk, private_key


@pytest.mark.parametrize(
    ("word", "role"),
    [("org:admin", Role.MANAGER), ("admin", Role.MANAGER), ("manager", Role.MANAGER), ("org:manager", Role.MANAGER),
     ("org:member", Role.MEMBER), ("member", Role.MEMBER), ("basic_member", Role.MEMBER), ("service", Role.SERVICE),
     ("org:boss", Role.MEMBER), ("ADMIN", Role.MEMBER), ("", Role.MEMBER), (None, Role.MEMBER)],
)  # fmt: skip
def test_roles_are_three_and_the_unknown_one_is_the_least(word, role):
    assert role_of(word) is role


@pytest.mark.parametrize(
    ("org", "role"),
    [
        ({"org_id": "org_1", "org_role": "org:admin"}, Role.MANAGER),
        ({"org_id": "org_1", "org_role": "basic_member"}, Role.MEMBER),
        ({"org_id": "org_1"}, Role.MEMBER),
        ({"o": {"id": "org_1", "rol": "admin", "slg": "one"}, "v": 2}, Role.MANAGER),
        ({"o": {"id": "org_1", "rol": "member"}}, Role.MEMBER),
        ({"o": {"id": "org_1"}, "org_id": "org_1", "org_role": "org:admin"}, Role.MANAGER),
        ({"o": {"id": "org_1", "rol": "admin"}, "org_id": "org_1", "org_role": "org:admin"}, Role.MANAGER),
    ],
)
def test_both_kinds_of_session_token_are_read(org, role):
    principal = principal_of(claims_of(org_id=None, org_role=None) | org)
    assert (principal.tenant_id, principal.user_id, principal.role) == ("org_1", "ann", role)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"org_id": None}, "no org"),
        ({"org_id": ""}, "no org"),
        ({"org_id": None, "o": {}}, "no org"),
        ({"o": {"id": "other"}}, "more than one org"),
        ({"o": {"id": "demo", "rol": "admin"}}, "more than one role"),
        ({"o": "demo"}, "o"),
        ({"org_id": 7}, "org_id"),
        ({"org_id": "a\x00b"}, "org"),
        ({"org_id": "\ud800"}, "org"),
        ({"sub": ""}, "sub"),
        ({"sub": "s" * 201}, "sub"),
        ({"sub": None}, "sub"),
        ({"iat": "1"}, "iat"),
        ({"iat": True}, "iat"),
        ({"iat": None}, "iat"),
        ({"exp": "99999999999"}, "exp"),
        ({"exp": 10**18}, "exp"),
        ({"exp": 10**400}, "exp"),
        ({"exp": -(10**18)}, "exp"),
        ({"exp": float("inf")}, "exp"),
        ({"exp": float("nan")}, "exp"),
        ({"exp": None}, "exp"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(wrong, told):
    with pytest.raises(Unauthenticated) as refused:
        principal_of(claims_of(**wrong))
    assert told in refused.value.detail


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["id", "rol", "n", "e", "kty", "use", "kid"]), inner, max_size=4)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["exp", "iat", "sub", "org_id", "org_role", "o"]), JSON))
def test_no_claims_do_more_than_be_refused(changed):
    try:
        principal_of(claims_of() | changed)
    except Unauthenticated:
        pass


def test_a_role_is_demanded():
    manager = principal_of(claims_of(org_role="org:admin"))
    demand(manager, Role.MANAGER)
    demand(manager, Role.SERVICE, Role.MANAGER)
    with pytest.raises(Forbidden, match="needs the role service; your token says manager"):
        demand(manager, Role.SERVICE)


def body(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def short() -> dict[str, object]:
    public = RSAAlgorithm.to_jwk(private_key("short", 1024).public_key(), as_dict=True)
    return jwk("short", "one", n=public["n"])


def elliptic() -> dict[str, object]:
    public = ECAlgorithm(ECAlgorithm.SHA256).to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
    return {**public, "use": "sig", "kid": "ec", "alg": "ES256"}


@pytest.mark.parametrize(
    "key",
    [
        short(),
        elliptic(),
        jwk("one", use="enc"),
        jwk("one", alg="RS512"),
        jwk("one", alg="HS256"),
        jwk("one", kty="oct", k="c2VjcmV0"),
        jwk("one", kid=""),
        jwk("one", kid=7),
        jwk("one", n="!"),
        jwk("one", n=""),
        jwk("one", n=5),
        jwk("one", e="AA"),
        {name: value for name, value in jwk("one").items() if name != "use"},
        {name: value for name, value in jwk("one").items() if name != "kid"},
        {name: value for name, value in jwk("one").items() if name != "n"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "one", "use": "sig"},
        None,
        "one",
        [],
    ],
)
def test_keys_that_cannot_be_used_are_passed_over(key):
    assert list(usable(body(key, jwk("two")), {})) == ["two"]
    with pytest.raises(ValueError, match="no RSA key"):
        usable(body(key), {})


@pytest.mark.parametrize(
    "malformed",
    [b"", b"null", b"[]", b"{}", b'{"keys": null}', b'{"keys": {}}', b'{"keys": []}', b"<html>", b"[" * 100_000,
     b'{"keys":' + b"[" * 50_000, b"\xff\xfe"],
)  # fmt: skip
def test_what_is_no_set_is_an_error(malformed):
    with pytest.raises(ValueError, match="answered with"):
        usable(malformed, {})


def test_a_key_without_an_algorithm_is_one_of_ours_and_private_parts_are_not_kept():
    plain = {name: value for name, value in jwk("one").items() if name != "alg"}
    secret = RSAAlgorithm.to_jwk(private_key("one"), as_dict=True)
    for told in (plain, {**plain, **{part: secret[part] for part in ("d", "p", "q", "dp", "dq", "qi")}}):
        assert not hasattr(usable(body(told), {})["one"].public, "private_numbers")


def test_the_same_key_stays_the_same_object():
    first = usable(body(jwk("one"), jwk("two")), {})
    second = usable(body(jwk("one"), jwk("two", "three")), first)
    assert second["one"] is first["one"]
    assert second["two"] is not first["two"]


@given(JSON)
def test_no_set_does_more_than_be_refused(keys):
    try:
        assert usable(msgspec.json.encode({"keys": keys}), {}) == {}
    except ValueError as refused:
        assert str(refused)


def test_a_full_set_is_read_in_no_time():
    told = body(*(jwk(f"k{number}", "one") for number in range(120)))
    began = time.thread_time()
    assert len(usable(told, {})) == 120
    assert time.thread_time() - began < 0.5
