"""The configuration: all problems at once, secrets masked."""

from datetime import datetime

import pytest

from ottoai import rates
from ottoai.config import Config, table
from ottoai.domain import hours
from ottoai.errors import ConfigError
from ottoai.web.routes import ROUTES

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
                "BUSINESS_HOURS": "Mon-Fri 9-5",
                "ALERT_BOUNDS": "nosuch.warning=1",
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
        "BUSINESS_HOURS",
        "ALERT_BOUNDS",
        "OTEL_TRACES_SAMPLER_ARG",
    ):
        assert name in str(refused.value)
    assert len(refused.value.problems) == 9


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
     ("BUSINESS_HOURS", "Mon-Fri 09:00-24:01"), ("BUSINESS_HOURS", "Mon-Fri 24:00-24:00"), ("BUSINESS_HOURS", "never"),
     ("ALERT_BOUNDS", "http_p95"), ("ALERT_BOUNDS", "http_p95.warning=fast"),
     ("TENANT_TIMEZONE", "Mars/Olympus"), ("TENANT_TIMEZONE", "../etc/passwd"),
     ("DB_POOL_SIZE", "0"), ("REDIS_URL", "http://h")],
)  # fmt: skip
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        Config.load({**GOOD, name: value})


def test_other_bounds_are_those_of_indicators():
    """An indicator that there is not, and a level that it does not have, are named; of the rest nothing is said."""
    good = "http_p95.warning=0.8,http_p95.critical=2/120s,cache_hits.warning=off"
    assert dict(Config.load({**GOOD, "ALERT_BOUNDS": good}).masked())["ALERT_BOUNDS"] == good
    with pytest.raises(ConfigError) as refused:
        Config.load({**GOOD, "ALERT_BOUNDS": f"nosuch.warning=1,{good},http_p95.info=1"})
    assert refused.value.problems == ["ALERT_BOUNDS names bounds that there are not: http_p95.info, nosuch.warning"]


def test_business_may_go_on_until_midnight():
    config = Config.load({**GOOD, "BUSINESS_HOURS": "Mon-Fri 09:00-24:00"})
    business = hours.parse(config.business_hours, config.tenant_timezone)
    for clock, is_open in (("23:59:59", True), ("00:00:00", False)):
        now = datetime.fromisoformat(f"2026-11-24T{clock}-05:00")
        assert (hours.next_opening(now, business) == now) is is_open


def test_rates_are_read():
    config = Config.load(GOOD)
    limits = (config.rate_limit_user, config.rate_limit_tenant, config.rate_limit_routes, config.rate_limit_shadow)
    assert [str(each) for each in limits] == ["60/minute", "600/minute", "()", "False"]
    routes = " GET /api/calls=120/minute ,GET  /api/leads/{id}=5/second"
    config = Config.load(
        {**GOOD, "RATE_LIMIT_USER": "5/hour", "RATE_LIMIT_ROUTES": routes, "RATE_LIMIT_SHADOW": "True"}
    )
    assert (config.rate_limit_user.limit, config.rate_limit_user.seconds) == (5, 3600)
    assert config.rate_limit_shadow is True
    shown = dict(config.masked())
    assert shown["RATE_LIMIT_ROUTES"] == "GET /api/calls=120/minute,GET /api/leads/{id}=5/second"
    assert (shown["RATE_LIMIT_TENANT"], shown["RATE_LIMIT_SHADOW"]) == ("600/minute", "true")


def test_everything_wrong_with_rates_is_named_together():
    bad = {
        "RATE_LIMIT_USER": "sixty",
        "RATE_LIMIT_TENANT": "0/minute",
        "RATE_LIMIT_LIVE_USER": "5/fortnight",
        "RATE_LIMIT_LIVE_TENANT": "1000001/second",
        "RATE_LIMIT_FAILURES": "-1/minute",
        "RATE_LIMIT_SHADOW": "maybe",
        "RATE_LIMIT_ROUTES": "GET /api/nothing=1/minute,GET /health=1/minute,GET /api/calls=x,GET /api/leads=1/day,"
        "GET /api/leads=2/day,nonsense,=1/minute",
    }
    with pytest.raises(ConfigError) as refused:
        Config.load({**GOOD, **bad})
    assert len(refused.value.problems) == len(bad)
    for word in (
        *bad,
        "/api/nothing",
        "GET /health",
        "GET /api/calls: must look like",
        "GET /api/leads twice",
        "nonsense",
    ):
        assert word in str(refused.value), word


def test_every_route_of_the_api_is_known_to_the_limits():
    served = {f"{method} {path}" for method, path, _ in ROUTES if path.startswith("/api/")}
    assert served == set(rates.ROUTES), "ottoai/rates.py lists what is limited, and with what it is counted"


def test_test_emit_keys_by_environment():
    assert Config.load(GOOD | {"DEV_KEYS": "a:b"}).test_emit_keys == {}
    assert Config.load(GOOD | {"ENVIRONMENT": "staging"}).test_emit_keys == {}
    assert Config.load(GOOD | {"ENVIRONMENT": "staging", "DEV_KEYS": "a:b,c:d"}).test_emit_keys == {"a": "b", "c": "d"}
    assert Config.load(GOOD | {"ENVIRONMENT": "development"}).test_emit_keys == {"dev": "dev"}


def test_the_table_names_every_setting():
    text = table()
    for name, _ in Config.load(GOOD).masked():
        assert f"`{name}`" in text
