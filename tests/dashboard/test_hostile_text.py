"""Ids, names, errors and states that mean harm: shown as text, each hidden character as its code."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any, TypedDict
from urllib.parse import quote

import pytest
from langgraph.graph import START, StateGraph

from aiodurable.dashboard.visible import visible, visible_lines
from aiodurable.durable import Durable
from tests.dashboard.conftest import Opened

MARKUP = "<img src=x onerror=alert(1)>"
HIDDEN = "\x1b[2J\u202egnp.exe\u2066\u200b\x07\u2028"
HIDDEN_KINDS = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
IDS = (
    MARKUP,
    f"{MARKUP}{HIDDEN}",
    "../../etc/passwd",
    "a/b?c=d&e#f",
    "'\"><script>alert(1)</script>",
    "{{ 7*7 }}{% raw %}",
    " spaces at both ends ",
    "line\nend",
    "javascript:alert(1)",
)


class State(TypedDict):
    text: str


def failing() -> StateGraph[Any, Any, Any, Any]:
    def node(state: State) -> Any:
        raise ValueError(f"{MARKUP}{HIDDEN}{state['text']}")

    return StateGraph(State).add_node("<b>node", node).add_edge(START, "<b>node")


def clean(page: str) -> None:
    """Nothing of what was stored is markup, and nothing of it is hidden."""
    assert "<img" not in page
    assert "<script>alert" not in page
    assert "<b>node" not in page
    page = re.sub(r'\bvalue="[^"]*"', "", page)  # what is sent back is as it was
    for character in HIDDEN:
        if not character.isprintable():
            assert character not in page, repr(character)


@pytest.mark.parametrize("thread_id", IDS)
async def test_a_hostile_thread_is_listed_and_opened(
    opened: Opened, durable: Durable, thread_id: str
) -> None:
    async with durable.run(thread_id, failing()) as run:
        with pytest.raises(ValueError, match="img"):
            await run.ainvoke({"text": f"{MARKUP}{HIDDEN}"})
    client = opened()
    listed = await client.get("/threads")
    assert listed.status_code == 200
    clean(listed.text)
    link = f"/thread?id={quote(thread_id, safe='')}"
    assert html.escape(link) in listed.text
    page = await client.get("/thread", params={"id": thread_id})
    assert page.status_code == 200
    clean(page.text)
    assert visible(thread_id) in html.unescape(page.text)
    checkpoint = (await durable.threads.get(thread_id)).checkpoint_id
    query = {"id": thread_id, "checkpoint": checkpoint, "to": checkpoint}
    for part in ("state", "diff"):
        answer = await client.get(f"/thread/{part}", params=query)
        assert answer.status_code == 200
        clean(answer.text)


@pytest.mark.parametrize(
    "query", [MARKUP, HIDDEN, 'error:"<script>"', "status:<b>", "older:" + "9" * 400, "\0"]
)
async def test_a_hostile_search_is_answered(opened: Opened, query: str) -> None:
    answer = await opened().get("/threads", params={"q": query})
    assert answer.status_code == 200
    clean(answer.text)


@pytest.mark.parametrize("thread_id", ["", "\0", "a" * 600, "\ud800"])
async def test_an_id_that_cannot_be_is_a_clear_error(opened: Opened, thread_id: str) -> None:
    encoded = quote(thread_id, errors="surrogatepass")
    assert (await opened().get(f"/thread?id={encoded}")).status_code in (404, 422)


def test_hidden_characters_become_codes_and_text_stays() -> None:
    assert visible("naïve 日本 👩\u200d💻 \u202e\x00\x7f\u2028") == (
        "naïve 日本 👩\u200d💻 \\u202e\\x00\\x7f\\u2028"
    )


def test_every_character_is_shown_or_is_its_code() -> None:
    everything = "".join(map(chr, range(0x110000)))
    for shown, kept in ((visible(everything), ""), (visible_lines(everything), "\n\t")):
        left = {one for one in set(shown) if unicodedata.category(one) in HIDDEN_KINDS}
        assert left == {*kept, "\u200c", "\u200d"}
        for code in ("\\x00", "\\x7f", "\\xad", "\\u202e", "\\u2028", "\\ud800", "\\U000e0001"):
            assert code in shown


def test_a_long_text_is_read_a_few_times_not_a_character_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def category(character: str) -> str:
        asked.append(character)
        return unicodedata.category(character)

    monkeypatch.setattr("aiodurable.dashboard.visible._is_hidden", lambda one: bool(category(one)))
    visible_lines("a long line\x1b\n" * 100_000)
    assert len(asked) < 20
