"""What people did: checked before it is stored, and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from aiodurable.errors import InvalidArgumentError
from aiodurable.insights.models import AuditRecord
from aiodurable.thread_id import has_nul

__all__ = ["action_name", "actor_name", "audit_record", "stored_details"]

_LONGEST_ACTOR: Final = 200
_LONGEST_ACTION: Final = 100
_LONGEST_DETAILS: Final = 10_000


def actor_name(actor: str) -> str:
    """The actor, if it can be stored."""
    return _text("actor", actor, _LONGEST_ACTOR)


def action_name(action: str) -> str:
    """The action, if it can be stored."""
    return _text("action", action, _LONGEST_ACTION)


def stored_details(details: Mapping[str, Any]) -> str:
    """The details as JSON, if they can be stored."""
    try:
        text = json.dumps(dict(details), allow_nan=False, ensure_ascii=False)
        text.encode()  # a lone surrogate is a ValueError
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"cannot record details: they are no JSON ({type(error).__name__}); pass texts,"
            " numbers, lists and mappings",
            argument="details",
        ) from error
    if len(text) > _LONGEST_DETAILS or has_nul(text):
        raise InvalidArgumentError(
            f"cannot record details: as JSON they have {len(text)} characters, at most"
            f" {_LONGEST_DETAILS} and no NUL are stored; record ids and numbers, no states",
            argument="details",
        )
    return text


def audit_record(row: Mapping[str, Any]) -> AuditRecord:
    """The record of a row."""
    return AuditRecord(**{**row, "details": json.loads(row["details"])})


def _text(name: str, text: str, most: int) -> str:
    if not isinstance(text, str) or not 1 <= len(text) <= most or not _storable(text):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(
            f"cannot record {name}: pass a text of 1 to {most} characters without control"
            " characters",
            argument=name,
        )
    return text


def _storable(text: str) -> bool:
    """Whether Postgres stores it, and a line of a terminal shows it as it is."""
    return all(character.isprintable() for character in text)
