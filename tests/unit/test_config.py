"""The configuration: all problems at once, secrets masked."""

import pytest

from ottoai.config import Config, table
from ottoai.errors import ConfigError

GOOD = {
    "ENVIRONMENT": "production",
    "DATABASE_URL": "postgresql://u:hidden@h/d",
    "REDIS_URL": "redis://:hidden@h",
    "JWT_SECRET": "hidden-" + "x" * 32,
}


def test_all_problems_are_named_together():
    with pytest.raises(ConfigError) as refused:
        Config.load(
            {
                "ENVIRONMENT": "prod",
                "DATABASE_URL": "mysql://x",
                "JWT_SECRET": "short",
                "PORT": "99999",
                "OTEL_TRACES_SAMPLER_ARG": "2",
            }
        )
    for name in ("ENVIRONMENT", "DATABASE_URL", "REDIS_URL", "JWT_SECRET", "PORT", "OTEL_TRACES_SAMPLER_ARG"):
        assert name in str(refused.value)
    assert len(refused.value.problems) == 6


def test_one_kind_of_tokens_is_enough_and_none_is_not():
    url = {"JWT_JWKS_URL": "https://clerk.example/.well-known/jwks.json"}
    without = {name: value for name, value in GOOD.items() if name != "JWT_SECRET"}
    assert Config.load(without | url).jwt_secret == ""
    assert Config.load(GOOD).jwt_jwks_url == ""
    assert Config.load(GOOD | url).jwt_jwks_url == url["JWT_JWKS_URL"]
    for neither in (without, without | {"JWT_SECRET": " ", "JWT_JWKS_URL": ""}):
        with pytest.raises(ConfigError) as refused:
            Config.load(neither | {"PORT": "x"})
        assert len(refused.value.problems) == 2
        assert "JWT_SECRET is not set, nor is JWT_JWKS_URL" in str(refused.value)


def test_keys_are_fetched_from_where_nobody_can_change_them():
    for url in ("https://clerk.example/jwks", "http://127.0.0.1:8000/jwks", "http://localhost/jwks", "http://[::1]/"):
        assert Config.load(GOOD | {"JWT_JWKS_URL": url}).jwt_jwks_url == url
    for url in (
        "http://clerk.example/jwks",
        "http://127.0.0.1.evil.example/",
        "ftp://x/",
        "https://",
        "jwks",
        "http://[",
    ):
        with pytest.raises(ConfigError, match="JWT_JWKS_URL"):
            Config.load(GOOD | {"JWT_JWKS_URL": url})


def test_secrets_are_masked():
    config = Config.load(
        {**GOOD, "OPS_USERS": "ann:hidden:operator", "DEV_KEYS": "a:hidden", "METRICS_TOKEN": "hidden"}
    )
    assert "hidden" not in repr(config)
    assert "hidden" not in str(config.masked())


@pytest.mark.parametrize(
    ("name", "value"),
    [("OPS_USERS", "ann:pw:root"), ("OPS_USERS", "ann"), ("DEV_KEYS", "key"), ("TRUSTED_PROXIES", "10.0.0.0/99"),
     ("LOG_LEVEL", "LOUD"),
     ("TENANT_TIMEZONE", "Mars/Olympus"), ("TENANT_TIMEZONE", "../etc/passwd"),
     ("DB_POOL_SIZE", "0"), ("REDIS_URL", "http://h")],
)  # fmt: skip
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        Config.load({**GOOD, name: value})


def test_test_emit_keys_by_environment():
    assert Config.load(GOOD | {"DEV_KEYS": "a:b"}).test_emit_keys == {}
    assert Config.load(GOOD | {"ENVIRONMENT": "staging"}).test_emit_keys == {}
    assert Config.load(GOOD | {"ENVIRONMENT": "staging", "DEV_KEYS": "a:b,c:d"}).test_emit_keys == {"a": "b", "c": "d"}
    assert Config.load(GOOD | {"ENVIRONMENT": "development"}).test_emit_keys == {"dev": "dev"}


def test_the_table_names_every_setting():
    text = table()
    for name, _ in Config.load(GOOD).masked():
        assert f"`{name}`" in text
