"""A thread_id has one lock key everywhere, and a bad one is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiodurable.errors import InvalidArgumentError
from aiodurable.lock_keys import MIGRATION_KEY, is_thread_key, lock_key, own_lock_key
from aiodurable.thread_id import MAX_THREAD_ID_BYTES, validate_thread_id


def test_keys_never_change_between_versions() -> None:
    # Hosts with different versions must exclude each other: these numbers are a promise.
    assert lock_key("order-42", "aiodurable") == -5461702092769764302
    assert lock_key("order-42", "other") == 3163685368337412886
    assert lock_key("tiden-ü", "aiodurable") == -7456604862976627636


@given(st.text(min_size=1), st.text(min_size=1, max_size=16))
def test_keys_fit_a_signed_bigint(name: str, namespace: str) -> None:
    assert -(2**63) <= lock_key(name, namespace) < 2**63
    assert -(2**63) <= own_lock_key(name, namespace) < 2**63


@given(st.text(min_size=1), st.text(min_size=1, max_size=16))
def test_no_lock_of_another_kind_ever_has_the_key_of_a_thread(name: str, namespace: str) -> None:
    assert is_thread_key(lock_key(name, namespace))
    assert not is_thread_key(own_lock_key(name, namespace))
    assert not is_thread_key(MIGRATION_KEY)


@given(st.text(min_size=1, max_size=100).filter(lambda text: "\0" not in text))
def test_a_thread_id_that_postgres_can_hold_passes(thread_id: str) -> None:
    assert validate_thread_id(thread_id) is thread_id


@pytest.mark.parametrize(
    ("thread_id", "found"),
    [
        ("", "empty"),
        ("a\0b", "NUL"),
        ("x" * 10_240, "10240"),
        ("ü" * (MAX_THREAD_ID_BYTES // 2 + 1), str(MAX_THREAD_ID_BYTES + 2)),
        ("\ud800", "surrogate"),
        (42, "int"),
        (None, "NoneType"),
    ],
)
def test_a_thread_id_that_cannot_be_stored_is_refused_with_what_was_found(
    thread_id: object, found: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=found):
        validate_thread_id(thread_id)  # type: ignore[arg-type]
