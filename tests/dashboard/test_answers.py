"""The inbox: what is seen of a question, the form of its answer, and that it is answered once."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from aiodurable import Durable, Settings
from aiodurable.dashboard.actions.answer_form import answer_of, fields_of
from aiodurable.errors import InvalidArgumentError
from tests.dashboard.acting import ORIGIN, act, ask, asking, form_of, next_page
from tests.dashboard.conftest import Opened, nothing_of_states

MARKUP = "<img src=x onerror=alert(1)>\x1b[2J\u202e"
REVIEW: dict[str, Any] = {
    "type": "object",
    "properties": {
        "approve": {"type": "boolean"},
        MARKUP: {"type": "string", "description": MARKUP, "maxLength": 5},
        "copies": {"type": "integer", "minimum": 1},
        "colour": {"$ref": "#/$defs/Colour"},
    },
    "$defs": {"Colour": {"enum": ["red", MARKUP], "type": "string"}},
    "required": ["approve"],
}


@pytest.fixture
async def durable(dsn: str) -> Any:
    graphs = {
        "asking": asking({"question": MARKUP, "amount": 2**63, "card": "4111"}),
        "review": asking("Fine?", response_schema=REVIEW),
    }
    async with Durable(dsn, graphs=graphs, settings=Settings()) as opened:
        yield opened


async def test_a_question_is_answered_once_and_then_refused(
    opened: Opened, durable: Durable
) -> None:
    question = await ask(durable, "t")
    client = opened(read_only=False)
    query = {"id": "t", "question": question}
    form = form_of((await client.get("/act/answer", params=query)).text)
    again = dict(form)
    first = await client.post(
        "/act/answer", params=query, data={**form, "json": '"yes"'}, headers=ORIGIN
    )
    assert 'role="status"' in await next_page(client, first)
    thread = await durable.threads.get("t")
    assert str(thread.status) == "complete"
    for answer in ('"yes"', '"no"'):
        second = await client.post(
            "/act/answer", params=query, data={**again, "json": answer}, headers=ORIGIN
        )
        assert second.status_code == 409
        assert "it is not open any more" in second.text
    assert await durable.threads.get("t") == thread
    records = (await durable.insights.audit()).records
    assert [record.details.get("refused") for record in records if "refused" in record.details] == [
        "NothingToAnswerError"
    ] * 2
    assert not any("yes" in str(record.details) for record in records)


async def test_a_question_is_seen_only_with_view_state_and_redacted(
    opened: Opened, durable: Durable
) -> None:
    await ask(durable, "t")

    def redact(path: tuple[str | int, ...], value: Any) -> Any:
        return "•••" if path[-1] == "card" else value

    page = (await opened(read_only=False, redact=redact).get("/questions")).text
    assert str(2**63) in page
    assert "4111" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    hidden = (await opened(read_only=False, authorize=nothing_of_states).get("/questions")).text
    assert "view_state" in hidden
    assert str(2**63) not in hidden
    assert "onerror" not in hidden


async def test_a_schema_with_what_is_redacted_is_on_no_page_and_in_no_answer(
    opened: Opened, durable: Durable
) -> None:
    question = await ask(durable, "t", "review")
    paths: list[tuple[str | int, ...]] = []

    def redact(path: tuple[str | int, ...], value: Any) -> Any:
        paths.append(path)
        return "•••" if value == "red" else value

    query = {"id": "t", "question": question}
    client = opened(read_only=False, redact=redact)
    page = (await client.get("/act/answer", params=query)).text
    assert ("response_schema", "$defs", "Colour", "enum", 0) in paths
    assert "red&#34;" not in page
    assert ">red<" not in page
    assert 'name="json"' in page
    assert 'name="value.0"' not in page
    await next_page(client, await act(client, "answer", {"json": '{"approve": true}'}, **query))
    assert str((await durable.threads.get("t")).status) == "complete"
    unchanged = opened(read_only=False, redact=lambda path, value: value)
    question = await ask(durable, "u", "review")
    page = (await unchanged.get("/act/answer", params={"id": "u", "question": question})).text
    assert 'name="value.0"' in page


async def test_a_large_question_is_cut_in_the_inbox(opened: Opened, dsn: str) -> None:
    graphs = {"asking": asking([[*range(90)] for _ in range(90)])}
    async with Durable(dsn, graphs=graphs, settings=Settings()) as durable:
        question = await ask(durable, "t")
        client = opened(of=durable, read_only=False)
        inbox = (await client.get("/questions")).text
        assert 100 < inbox.count("value-number") < 300
        assert "more: open the state" in inbox
        page = (await client.get("/act/answer", params={"id": "t", "question": question})).text
        assert 1_000 < page.count("value-number") < 2_000


async def test_a_schema_makes_the_form_and_what_does_not_fit_is_refused(
    opened: Opened, durable: Durable
) -> None:
    question = await ask(durable, "t", "review")
    client = opened(read_only=False)
    query = {"id": "t", "question": question}
    page = (await client.get("/act/answer", params=query)).text
    assert "<img" not in page
    assert 'name="value.3"' in page
    for bad in (
        {},
        {"value.0": "perhaps"},
        {"value.0": "true", "value.1": "too long"},
        {"value.0": "true", "value.2": "0"},
        {"value.0": "true", "value.2": "1.5"},
        {"value.0": "true", "value.3": '"blue"'},
    ):
        refused = await act(client, "answer", {"x": "", **bad}, **query)
        assert refused.status_code == 422, bad
    done = await act(
        client, "answer", {"value.0": "true", "value.2": "9" * 18, "value.3": '"red"'}, **query
    )
    await next_page(client, done)
    thread = await durable.threads.get("t")
    assert str(thread.status) == "complete"
    expected = {"approve": True, "copies": int("9" * 18), "colour": "red"}
    async with durable.run("t", "review") as run:
        assert (await run.aget_state()).values["word"] == str(expected)


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {},
        "text",
        {"type": "array"},
        {"type": ["string", "null"]},
        {"type": "object", "properties": {"deep": {"type": "object"}}},
        {"type": "object", "properties": {str(n): {"type": "string"} for n in range(99)}},
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
        {"enum": [[]]},
        {"enum": []},
    ],
    ids=str,
)
def test_any_other_schema_gets_json(schema: Any) -> None:
    (field,) = fields_of(schema)
    assert field.name == "json"
    assert answer_of(schema, {"json": '{"a": [1, 12345678901234567890]}'}) == {
        "a": [1, 12345678901234567890]
    }
    for bad in ("", "yes", "NaN", "[" * 100_000):
        with pytest.raises(InvalidArgumentError, match="JSON"):
            answer_of(schema, {"json": bad})


def test_a_single_value_is_read_as_its_schema_says() -> None:
    class Colour(enum.Enum):
        RED = "red"

    assert answer_of({"type": "string"}, {"value": ""}) == ""
    assert answer_of({"type": "number"}, {"value": " 1.5 "}) == 1.5
    assert answer_of({"type": "integer"}, {"value": "9" * 400}) == int("9" * 400)
    assert answer_of({"enum": [Colour.RED.value, 3, True]}, {"value": "3"}) == 3
    for schema, text in (
        ({"type": "number"}, "nan"),
        ({"type": "number"}, "1e999"),
        ({"type": "integer"}, "1" * 5_000),
        ({"type": "boolean"}, "maybe"),
    ):
        with pytest.raises(InvalidArgumentError):
            answer_of(schema, {"value": text})
