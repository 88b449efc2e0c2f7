"""Settings carry their units, come from the environment, and are refused together when they cannot
work.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from aiodurable.errors import ConfigurationError
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.settings import Settings


def test_every_field_can_come_from_the_environment() -> None:
    settings = Settings.from_env(
        {
            "AIODURABLE_LOCK_DSN": "postgresql://direct/db",
            "AIODURABLE_AUTO_MIGRATE": "no",
            "AIODURABLE_POOL_MAX_SIZE": "20",
            "AIODURABLE_RECOVERY_GRACE_S": "0.5",
        }
    )
    assert settings == Settings(
        lock_dsn="postgresql://direct/db",
        auto_migrate=False,
        pool_max_size=20,
        recovery_grace_s=0.5,
    )


def test_a_method_of_compression_that_nobody_knows_is_refused() -> None:
    assert Settings.from_env({"AIODURABLE_COMPRESSION": "lz4"}).compression == "lz4"
    with pytest.raises(ConfigurationError, match="auto, lz4, pglz, got 'zstd'"):
        Settings.from_env({"AIODURABLE_COMPRESSION": "zstd"})


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("AIODURABLE_AUTO_MIGRATE", "perhaps"),
        ("AIODURABLE_CHECKPOINT_CONNECTIONS", "two"),
        ("AIODURABLE_LEASE_HEARTBEAT_S", "5s"),
    ],
)
def test_a_value_of_the_wrong_kind_names_its_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*{text}"):
        Settings.from_env({name: text})


def test_classes_are_allowed_by_themselves_by_name_and_from_the_environment() -> None:
    class Order: ...

    by_class = Settings(allowed_msgpack_modules=[Order, ("shop.orders", "Size")])
    assert by_class.allowed_classes == {(__name__, "Order"), ("shop.orders", "Size")}
    text = f"{__name__}.Order, shop.orders.Size"
    assert (
        Settings.from_env({"AIODURABLE_ALLOWED_MSGPACK_MODULES": text}).allowed_classes
        == by_class.allowed_classes
    )
    assert Settings.from_env({"AIODURABLE_ALLOWED_MSGPACK_MODULES": ""}).allowed_classes == set()


@pytest.mark.parametrize(
    "wrong", ["shop.orders.Order", ("shop", "orders", "Order"), ("", "Order"), 7]
)
def test_an_allowed_class_that_names_none_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="allowed_msgpack_modules"):
        Settings(allowed_msgpack_modules=[wrong])  # pyright: ignore[reportArgumentType]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings(
            checkpoint_connections=0,
            pool_min_size=5,
            pool_max_size=2,
            lease_heartbeat_s=-1,
            namespace="",
            lease_ttl_s=math.nan,
        )
    for name in (
        "checkpoint_connections",
        "pool_max_size",
        "lease_heartbeat_s",
        "namespace",
        "lease_ttl_s",
    ):
        assert name in str(refused.value)


def test_a_lease_that_one_late_heartbeat_would_lose_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="lease_ttl_s"):
        Settings(lease_ttl_s=10, lease_heartbeat_s=4, lease_safety_margin_s=2)


@pytest.mark.parametrize(
    "times",
    [
        {
            "lease_ttl_s": 12,
            "lease_heartbeat_s": 4,
            "lease_safety_margin_s": 4,
        },  # exactly at the edge
        {"lease_ttl_s": 10, "lease_heartbeat_s": 0.0, "lease_safety_margin_s": 4},
        {"lease_ttl_s": 10, "lease_heartbeat_s": 2, "lease_safety_margin_s": 0},
        {"lease_ttl_s": math.inf},
        {"lease_ttl_s": 3_000_000},
        {"lease_heartbeat_s": math.nan},
        {"lease_safety_margin_s": -1},
    ],
    ids=str,
)
def test_times_of_a_lease_that_break_each_other_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        Settings(**times)


@pytest.mark.parametrize("ttl", [0.5, 2.5, 8.9, 20, 60, 61.3])
def test_a_holder_stops_before_any_of_the_servers_clocks_frees_its_lease(ttl: float) -> None:
    """Its timeout for idle sessions, in milliseconds, and its keepalives, in whole seconds: neither
    is rounded down.
    """
    terms = LeaseTiming.of(
        Settings(lease_ttl_s=ttl, lease_heartbeat_s=ttl / 10, lease_safety_margin_s=0.01)
    )
    silence_ms, idle, interval = map(int, terms.server_settings)
    trusted = terms.trusted_until(sent=0)
    assert trusted < silence_ms / 1000
    assert trusted < idle + 3 * interval


def test_a_namespace_that_nobody_gave_follows_the_schema_and_a_given_one_stays() -> None:
    one = Settings(schema="one")
    assert dataclasses.replace(one, schema="other").namespace == "aiodurable:other"
    assert dataclasses.replace(one, schema=None) == Settings()
    assert Settings(schema="one", namespace="aiodurable").namespace == "aiodurable"
    given = Settings(namespace="mine")
    assert dataclasses.replace(given, schema="one").namespace == "mine"


@pytest.mark.parametrize("name", ["AIODURABLE_SCHEMA", "AIODURABLE_LOCK_DSN"])
def test_an_empty_variable_is_one_that_is_not_set(name: str) -> None:
    assert Settings.from_env({name: ""}) == Settings()


@pytest.mark.parametrize(
    "wrong",
    [
        {"lease_ttl_s": None},
        {"lease_ttl_s": "20"},
        {"lock_connections": "2"},
        {"lock_connections": True},
        {"pool_max_size": 2.5},
        {"auto_migrate": "no"},
        {"namespace": None},
        {"schema": 5},
        {"lock_dsn": b"postgresql://ann:secret@host/db"},
        {"allowed_msgpack_modules": "shop.orders.Order"},
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_named_and_not_shown(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=f"{name} must be") as refused:
        Settings(**wrong)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("namespace", ["a\0b", "\ud800", "a\nb"], ids=ascii)
def test_a_namespace_that_postgres_cannot_store_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="namespace must have"):
        Settings(namespace=namespace)


def test_settings_from_the_environment_can_be_a_key() -> None:
    text = {"AIODURABLE_ALLOWED_MSGPACK_MODULES": "shop.orders.Order"}
    assert {Settings.from_env(text): 1}[Settings.from_env(text)] == 1


def test_a_password_in_the_dsn_of_the_locks_is_not_shown() -> None:
    assert "secret" not in repr(Settings(lock_dsn="postgresql://ann:secret@host/db"))
