"""States: exact, bounded, redacted, and never markup."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Interrupt, Send
from pydantic import BaseModel

from aiodurable.dashboard.state_diff import changes
from aiodurable.dashboard.state_tree import find, tree_of, whole
from aiodurable.durable import Durable
from aiodurable.jsonable import json_text
from tests.dashboard.conftest import Opened

HUGE = 2**63 - 25


class Held(TypedDict, total=False):
    number: int
    text: str
    inner: dict[str, Any]
    items: list[Any]


def keeping(*updates: Held) -> StateGraph[Any, Any, Any, Any]:
    """A graph whose nodes store these, one after the other."""
    builder = StateGraph(Held)
    last = START
    for index, update in enumerate(updates):
        name = f"n{index}"
        builder.add_node(name, lambda _, update=update: update)
        builder.add_edge(last, name)
        last = name
    return builder


async def stored(durable: Durable, *updates: Held) -> list[str]:
    """The checkpoints after each node, the first first."""
    async with durable.run("t", keeping(*updates)) as run:
        await run.ainvoke({"number": 0})
    steps = [step async for step in durable.threads.history("t")]
    return [step.checkpoint_id for step in reversed(steps) if step.nodes][-len(updates) :]


async def test_integers_are_exact(opened: Opened, durable: Durable) -> None:
    (checkpoint,) = await stored(durable, {"number": HUGE, "inner": {"deep": [HUGE - 1]}})
    client = opened()
    page = await client.get("/thread/state", params={"id": "t", "checkpoint": checkpoint})
    assert str(HUGE) in page.text
    assert str(HUGE - 1) in page.text
    whole = await client.get("/thread/value", params={"id": "t", "checkpoint": checkpoint})
    assert whole.json()["number"] == str(HUGE)
    assert "attachment" in whole.headers["content-disposition"]


async def test_a_value_of_5_mb_is_cut_on_the_page_and_whole_in_the_download(
    opened: Opened, durable: Durable
) -> None:
    text = "x<b>" * 1_300_000
    (checkpoint,) = await stored(durable, {"text": text, "items": [*range(5_000)]})
    client = opened()
    query = {"id": "t", "checkpoint": checkpoint}
    page = await client.get("/thread/state", params=query)
    assert page.status_code == 200
    assert len(page.content) < 200_000
    assert "download whole" in page.text
    assert "<b>" not in page.text.partition("state-tree")[2]
    got = await client.get("/thread/value", params={**query, "path": json.dumps(["text"])})
    assert got.json() == text
    part = await client.get("/thread/state", params={**query, "path": json.dumps(["items"])})
    assert "4 900 more" in part.text.replace("\u202f", " ")


async def test_redacted_values_are_on_no_page_and_in_no_download(
    opened: Opened, durable: Durable
) -> None:
    first, second = await stored(
        durable,
        {"text": "open-1", "inner": {"password": "hunter-1", "kept": "seen-1"}},
        {"text": "open-2", "inner": {"password": "hunter-2", "kept": "seen-2"}},
    )
    paths: list[tuple[str | int, ...]] = []

    def redact(path: tuple[str | int, ...], value: Any) -> Any:
        paths.append(path)
        return "•••" if path[-1] == "password" else value

    client = opened(redact=redact)
    pages = [
        await client.get("/thread/state", params={"id": "t", "checkpoint": second}),
        await client.get("/thread/diff", params={"id": "t", "from": first, "to": second}),
        await client.get("/thread/diff", params={"id": "t", "to": second}),
        await client.get("/thread/value", params={"id": "t", "checkpoint": second}),
        await client.get(
            "/thread/value",
            params={"id": "t", "checkpoint": second, "path": json.dumps(["inner", "password"])},
        ),
    ]
    assert all(page.status_code == 200 for page in pages)
    assert all("hunter" not in page.text for page in pages)
    assert all("seen-2" in page.text for page in pages[:4])
    assert ("inner", "password") in paths


async def test_a_deep_value_of_5_mb_is_redacted_in_its_download(
    opened: Opened, durable: Durable
) -> None:
    deep: Any = {"password": "hunter-deepest"}
    for level in range(80):
        deep = {"in": deep, "password": f"hunter-{level}"} if level % 2 else [deep, level]
    many = [{"name": "ada", "card": {"password": f"hunter-{n}"}} for n in range(20_000)]
    inner = {"deep": deep, "large": "x" * 4_000_000}
    (checkpoint,) = await stored(durable, {"inner": inner, "items": many})

    def redact(path: tuple[str | int, ...], value: Any) -> Any:
        return "•••" if path[-1] == "password" else value

    query = {"id": "t", "checkpoint": checkpoint}
    client = opened(redact=redact)
    for path in ([], ["inner"], ["inner", "deep"], ["items"], ["items", 19_999]):
        got = await client.get("/thread/value", params={**query, "path": json.dumps(path)})
        assert got.status_code == 200
        assert "hunter" not in got.text
        assert "•••" in json.dumps(got.json(), ensure_ascii=False)
    whole = (await client.get("/thread/value", params=query)).json()
    assert whole["inner"]["large"] == inner["large"]
    assert len(whole["items"]) == 20_000


@pytest.mark.parametrize("redact", [None, lambda path, value: value], ids=["no", "yes"])
def test_what_is_nested_deeper_than_readers_go_is_cut(redact: Any) -> None:
    deep: Any = "bottom"
    for _ in range(5_000):
        deep = [deep]
    text = json_text(whole((), {"deep": deep}, redact))
    assert "<list, nested too deep>" in text
    assert "bottom" not in text


async def test_nobody_looks_into_what_redact_replaced(opened: Opened, durable: Durable) -> None:
    first, second = await stored(
        durable, {"inner": {"password": "hunter-1"}}, {"inner": {"password": "hunter-2"}}
    )
    client = opened(redact=lambda path, value: None if path == ("inner",) else value)
    inside = {"id": "t", "checkpoint": second, "path": json.dumps(["inner", "password"])}
    for page in ("state", "value"):
        assert (await client.get(f"/thread/{page}", params=inside)).status_code == 422
    diff = await client.get("/thread/diff", params={"id": "t", "from": first, "to": second})
    assert "password" not in diff.text
    assert "hunter" not in diff.text


@dataclass
class Login:
    user: str
    password: str


class LoginModel(BaseModel):
    user: str
    password: str


@pytest.mark.parametrize(
    "value",
    [
        Send("ada", {"password": "hunter-1"}),
        Interrupt({"user": "ada", "password": "hunter-1"}, id="1"),
        Login("ada", "hunter-1"),
        LoginModel(user="ada", password="hunter-1"),
        deque([{"user": "ada", "password": "hunter-1"}]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_object_holds_is_redacted(value: Any) -> None:
    def redact(path: tuple[str | int, ...], value: Any) -> Any:
        return "•••" if path[-1] == "password" else value

    state = {"held": value}
    shown = (
        tree_of((), state, redact),
        whole((), state, redact),
        whole(("held",), find(state, ["held"], redact), redact),
        changes({}, state, redact),
    )
    for one in shown:
        assert "ada" in str(one)
        assert "•••" in str(one)
        assert "hunter" not in str(one)


@pytest.mark.parametrize("page", ["state", "value", "diff"])
async def test_a_redact_that_raises_hides(opened: Opened, durable: Durable, page: str) -> None:
    first, second = await stored(durable, {"text": "hunter-1"}, {"text": "hunter-2"})

    def redact(path: tuple[str | int, ...], value: Any) -> Any:
        raise RuntimeError("no")

    query = {"id": "t", "checkpoint": second, "from": first, "to": second}
    answer = await opened(redact=redact).get(f"/thread/{page}", params=query)
    assert answer.status_code == 200
    assert "hunter" not in answer.text


async def test_changes_name_each_place_once(opened: Opened, durable: Durable) -> None:
    first, second = await stored(
        durable,
        {"number": 1, "items": ["a", "b"], "inner": {"x": 1, "gone": 2}},
        {"number": 1, "items": ["a", "b", "c"], "inner": {"x": 2, "new": 3}},
    )
    page = await opened().get("/thread/diff", params={"id": "t", "from": first, "to": second})
    for place in ("items[2]", "inner.x", "inner.gone", "inner.new"):
        assert page.text.count(f"<code>{place}</code>") == 1
    assert "<code>number" not in page.text


def test_many_large_changes_make_a_page_of_bounded_size() -> None:
    after = [0, *([[*range(90)]] for _ in range(500))]
    found, more = changes({"items": [0]}, {"items": after}, None)
    assert (len(found), more) == (200, True)
    assert sum(branches(change.after) for change in found) < 3_500
    assert found[-1].after is not None
    assert found[-1].after.cut == 1  # the page says that there is more


def branches(tree: Any) -> int:
    return 1 + sum(map(branches, tree.children))


@pytest.mark.parametrize(
    "path",
    ["{", "[[]]", '{"a": 1}', "[" * 5_000, '["nothing"]', "[0]", '["items", true]'],
)
async def test_a_path_that_leads_nowhere_is_a_clear_error(
    opened: Opened, durable: Durable, path: str
) -> None:
    (checkpoint,) = await stored(durable, {"text": "a", "items": ["b", "c"]})
    query = {"id": "t", "checkpoint": checkpoint, "path": path}
    assert (await opened().get("/thread/state", params=query)).status_code == 422


async def test_a_checkpoint_that_is_gone_is_not_found(opened: Opened, durable: Durable) -> None:
    await stored(durable, {"text": "a"})
    answer = await opened().get("/thread/state", params={"id": "t", "checkpoint": "1ee0"})
    assert answer.status_code == 404
