"""The configuration: all problems at once, secrets masked."""

import pytest

from ottoai.config import Config, table
from ottoai.errors import ConfigError

GOOD = {
    "ENVIRONMENT": "production",
    "DATABASE_URL": "postgresql://u:hidden@h/d",
    "REDIS_URL": "redis://:hidden@h",
    "JWT_SECRET": "hidden-" + "x" * 32,
    "SECRET_KEYS": "aGlkZGVuaGlkZGVuaGlkZGVuaGlkZGVuaGlkZGVuaGk=",
}


def test_all_problems_are_named_together():
    with pytest.raises(ConfigError) as refused:
        Config.load(
            {
                "ENVIRONMENT": "prod",
                "DATABASE_URL": "mysql://x",
                "JWT_SECRET": "short",
                "SECRET_KEYS": "short",
                "PORT": "99999",
                "OTEL_TRACES_SAMPLER_ARG": "2",
            }
        )
    for name in (
        "ENVIRONMENT",
        "DATABASE_URL",
        "REDIS_URL",
        "JWT_SECRET",
        "SECRET_KEYS",
        "PORT",
        "OTEL_TRACES_SAMPLER_ARG",
    ):
        assert name in str(refused.value)
    assert len(refused.value.problems) == 7


def test_secrets_are_masked():
    config = Config.load(
        {**GOOD, "OPS_USERS": "ann:hidden:operator", "DEV_KEYS": "a:hidden", "METRICS_TOKEN": "hidden"}
    )
    assert "hidden" not in repr(config)
    assert "hidden" not in str(config.masked())


@pytest.mark.parametrize(
    ("name", "value"),
    [("OPS_USERS", "ann:pw:root"), ("OPS_USERS", "ann"), ("DEV_KEYS", "key"), ("TRUSTED_PROXIES", "10.0.0.0/99"),
     ("LOG_LEVEL", "LOUD"), ("DB_POOL_SIZE", "0"), ("REDIS_URL", "http://h")],
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
