"""A form for the answer to a question: from its `response_schema` (JSON Schema) where that is a
text, a number, a truth, a choice, or an object of these; JSON otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

from aiodurable.dashboard.actions.act import Field, Form
from aiodurable.errors import InvalidArgumentError

__all__ = ["answer_of", "fields_of"]

_MOST_PROPERTIES = 30
_KINDS = {"string": "text", "integer": "integer", "number": "number", "boolean": "choice"}
_TRUTHS = (("true", "yes"), ("false", "no"))
_JSON = Field(
    "json", "Answer, as JSON", "lines", required=True, help='A text in quotes: "yes". Or {"a": 1}.'
)

_Schema = Mapping[str, Any]


def fields_of(schema: Any) -> Sequence[Field]:
    """The fields of the form."""
    if (scalar := _scalar(schema, schema)) is not None:
        return [_field("value", "Answer", scalar, required=True)]
    if (properties := _properties(schema)) is not None:
        needed = _needed(schema)
        return [
            _field(f"value.{index}", name, inner, required=name in needed)
            for index, (name, inner) in enumerate(properties.items())
        ]
    return [_JSON]


def answer_of(schema: Any, form: Form) -> Any:
    """The answer that a form has.

    Raises:
        InvalidArgumentError: a field has no value that it may have.
    """
    if (scalar := _scalar(schema, schema)) is not None:
        return _read(form, "value", "Answer", scalar)
    if (properties := _properties(schema)) is not None:
        needed, answer = _needed(schema), dict[str, Any]()
        for index, (name, inner) in enumerate(properties.items()):
            field = f"value.{index}"
            if form.get(field, "") or (name in needed):
                answer[name] = _read(form, field, name, inner)
        return answer
    try:
        return json.loads(form.get("json", ""), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse("Answer", f"it is no JSON ({str(error)[:80]}); a text needs quotes")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _properties(schema: Any) -> dict[str, _Schema] | None:
    """The properties of an object all of which a form can have."""
    if not isinstance(schema, dict):
        return None
    known = cast("dict[str, Any]", schema)
    stored = known.get("properties")
    if known.get("type") != "object" or not isinstance(stored, dict):
        return None
    given = cast("dict[Any, Any]", stored)
    if not 0 < len(given) <= _MOST_PROPERTIES:
        return None
    found: dict[str, _Schema] = {}
    for name, inner in given.items():
        scalar = _scalar(inner, known)
        if not isinstance(name, str) or scalar is None:
            return None
        found[name] = scalar
    return found


def _needed(schema: Any) -> frozenset[str]:
    needed: Any = schema.get("required")
    if not isinstance(needed, list):
        return frozenset()
    return frozenset(name for name in cast("list[Any]", needed) if isinstance(name, str))


def _scalar(given: Any, root: Any) -> _Schema | None:
    """The schema of a single value; None: it is of something else."""
    if not isinstance(given, dict):
        return None
    schema = cast("dict[str, Any]", given)
    reference = schema.get("$ref")
    if isinstance(reference, str):  # an enum, as pydantic writes it
        inner = _defined(root, reference.removeprefix("#/$defs/"))
        return None if isinstance(inner, dict) and "$ref" in inner else _scalar(inner, root)
    choices = schema.get("enum")
    if isinstance(choices, list):
        known = cast("list[Any]", choices)
        simple = known and all(isinstance(one, str | int | float | bool) for one in known)
        return schema if simple and len(known) <= _MOST_PROPERTIES * 10 else None
    kind = schema.get("type")
    return schema if isinstance(kind, str) and kind in _KINDS else None


def _defined(root: Any, name: str) -> Any:
    defined: Any = cast("dict[str, Any]", root).get("$defs") if isinstance(root, dict) else None
    return cast("dict[str, Any]", defined).get(name) if isinstance(defined, dict) else None


def _field(name: str, label: str, schema: _Schema, *, required: bool) -> Field:
    explained = schema.get("description")
    title = schema.get("title")
    default = schema.get("default")
    choices = _choices(schema)
    return Field(
        name,
        title if isinstance(title, str) and title else label,
        "choice" if choices else _KINDS[schema["type"]],
        _written(default, quoted=bool(choices)),
        choices,
        # An empty text is an answer.
        required=required and (bool(choices) or schema.get("type") != "string"),
        help=explained if isinstance(explained, str) else "",
    )


def _written(default: Any, *, quoted: bool) -> str:
    """A default as its field has it."""
    if isinstance(default, str):
        return json.dumps(default) if quoted else default
    return json.dumps(default) if isinstance(default, bool | int | float) else ""


def _choices(schema: _Schema) -> Sequence[tuple[str, str]]:
    if isinstance(schema.get("enum"), list):
        return [(json.dumps(one), str(one)) for one in schema["enum"]]
    return _TRUTHS if schema.get("type") == "boolean" else ()


def _read(form: Form, field: str, label: str, schema: _Schema) -> Any:
    text = form.get(field)
    if text is None:
        _refuse(label, "it is missing")
    if choices := _choices(schema):
        if text not in dict(choices):
            _refuse(label, f"choose from {', '.join(shown for _, shown in choices)}"[:300])
        return json.loads(text)
    match schema["type"]:
        case "string":
            return _text(label, text.replace("\r\n", "\n"), schema)
        case "integer":
            return _number(label, text, schema, int, "write a whole number")
        case _:
            return _number(label, text, schema, float, "write a number")


def _text(label: str, text: str, schema: _Schema) -> str:
    shortest, longest = schema.get("minLength"), schema.get("maxLength")
    if isinstance(shortest, int) and len(text) < shortest:
        _refuse(label, f"write at least {shortest} characters")
    if isinstance(longest, int) and len(text) > longest:
        _refuse(label, f"write at most {longest} characters")
    return text


def _number(
    label: str, text: str, schema: _Schema, kind: type[int | float], wanted: str
) -> int | float:
    try:
        number = kind(text.strip())
    except ValueError:
        _refuse(label, wanted)
    if isinstance(number, float) and not math.isfinite(number):
        _refuse(label, wanted)
    least, most = schema.get("minimum"), schema.get("maximum")
    if isinstance(least, int | float) and number < least:
        _refuse(label, f"it must be {least} or more")
    if isinstance(most, int | float) and number > most:
        _refuse(label, f"it must be {most} or less")
    return number


def _refuse(label: str, why: str) -> NoReturn:
    raise InvalidArgumentError(f"cannot use {label!r}: {why}", argument=label)
