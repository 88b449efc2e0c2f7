"""What a run was accepted with, and its state, come back as what they were, or not at all: never as
a dict in their place.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
from collections.abc import Iterator
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph

from aiodurable.checkpoints.stored_values import ValueReader
from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError, GraphChangedError
from aiodurable.models import ThreadStatus
from aiodurable.settings import Settings
from tests.support.internals import forget_classes, services_of
from tests.support.ledger_view import Ledger

Builder = StateGraph[Any, Any, Any, Any]
MODULE = "models_of_the_shop"
ALLOWED = Settings(allowed_msgpack_modules=((MODULE, "Order"), (MODULE, "Size")))


@dataclasses.dataclass
class Item:
    name: str


class State(TypedDict, total=False):
    item: Item
    seen: str


class Terms(TypedDict):
    item: Item


@pytest.fixture
def models() -> Iterator[types.ModuleType]:
    """A module of an application, whose classes a deploy may take away."""
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    code = (
        "import dataclasses, enum\n"
        "@dataclasses.dataclass\nclass Order:\n    name: str\n    price: int = 0\n"
        "class Size(enum.Enum):\n    SMALL = 'small'\n    LARGE = 'large'\n"
    )
    exec(code, module.__dict__)
    yield module
    del sys.modules[MODULE]
    changed()


def changed() -> None:
    """A deploy is another process, which remembers no class."""
    forget_classes()


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with LANGGRAPH_STRICT_MSGPACK=true, which LangGraph reads when it is imported."""
    monkeypatch.setattr("langgraph._internal._serde.STRICT_MSGPACK_ENABLED", True)
    monkeypatch.setattr("langgraph.checkpoint.serde._msgpack.STRICT_MSGPACK_ENABLED", True)


def looking(breaks: list[bool] | None = None, context: Any = None) -> Builder:
    """One node that takes the item in, and one that says what it is."""

    async def take(state: Any) -> Any:
        return {"item": state["item"]}

    async def look(state: Any) -> Any:
        if breaks:
            raise ConnectionError("no route")
        return {"seen": type(state["item"]).__name__}

    builder = StateGraph(State, context_schema=context)
    builder.add_node("take", take).add_node("look", look)
    return builder.add_edge(START, "take").add_edge("take", "look")


def shop(dsn: str, graph: Any, **options: Any) -> Durable:
    # LangGraph makes its savers' own serializer when it is imported, too early for the fixture
    # `strict`
    options.setdefault("serde", JsonPlusSerializer())
    options.setdefault("settings", ALLOWED)
    return Durable(dsn, graphs={"shop": graph}, **options)


async def accepted(dsn: str, graph: Any, input: Any, context: Any = None) -> None:
    """A run whose process died before its first checkpoint."""
    async with shop(dsn, graph) as durable, durable.hold("t") as lease:
        await services_of(durable).ledger.start(
            "r",
            fence=lease.fence,
            graph="shop",
            input=input,
            context=context,
            base_checkpoint_id=None,
            closing=None,
        )


async def failed(dsn: str, item: Any) -> None:
    """A run whose state has the item, and whose second node raised."""
    async with shop(dsn, looking([True])) as durable, durable.run("t", "shop") as run:
        with pytest.raises(ConnectionError):
            await run.ainvoke({"item": item})


@pytest.mark.usefixtures("strict")
async def test_an_input_of_a_class_of_the_graph_comes_back_as_one_under_strict_msgpack(
    dsn: str,
) -> None:
    await accepted(dsn, looking(), {"item": Item("tea")})
    async with shop(dsn, looking()) as durable:
        assert (await durable.threads.resume("t"))["seen"] == "Item"


@pytest.mark.usefixtures("strict")
async def test_a_compiled_graph_knows_its_classes_under_strict_msgpack_too(dsn: str) -> None:
    await accepted(dsn, looking().compile(), {"item": Item("tea")})
    async with shop(dsn, looking().compile()) as durable:
        assert (await durable.threads.resume("t"))["seen"] == "Item"


@pytest.mark.usefixtures("strict")
async def test_an_input_that_strict_msgpack_blocks_is_refused_and_says_what_allows_it(
    dsn: str, ledger: Ledger, models: types.ModuleType
) -> None:
    await accepted(dsn, looking(), {"item": models.Order("tea")})
    before = await ledger.rows("t")
    async with shop(dsn, looking(), settings=Settings()) as durable:
        with pytest.raises(GraphChangedError, match="allowed_msgpack_modules") as refused:
            await durable.threads.resume("t")
        assert refused.value.undecodable == (f"{MODULE}.Order",)
    assert await ledger.rows("t") == before
    allowed = JsonPlusSerializer(allowed_msgpack_modules=[(MODULE, "Order")])
    async with shop(dsn, looking(), settings=Settings(), serde=allowed) as durable:
        assert (await durable.threads.resume("t"))["seen"] == "Order"


@pytest.mark.parametrize("what", ["input", "context"])
async def test_an_input_or_a_context_of_a_class_that_is_gone_is_refused(
    dsn: str, ledger: Ledger, models: types.ModuleType, what: str
) -> None:
    order = models.Order("tea")
    given = {"input": ({"item": order}, None), "context": ({"item": Item("tea")}, {"item": order})}
    await accepted(dsn, looking(context=Terms), *given[what])
    before = await ledger.rows("t")
    kept = models.__dict__.pop("Order")
    changed()
    async with shop(dsn, looking(context=Terms)) as durable:
        with pytest.raises(GraphChangedError, match="has no 'Order' any more"):
            await durable.threads.resume("t")
        assert (await durable.threads.status("t")).status is ThreadStatus.CRASHED
        assert await ledger.rows("t") == before
        models.Order = kept  # pyright: ignore[reportAttributeAccessIssue]
        changed()
        assert (await durable.threads.resume("t"))["seen"]


def _without_a_field(models: Any) -> None:
    models.Order = dataclasses.make_dataclass("Order", ["name"])


def _without_a_member(models: Any) -> None:
    models.Size = enum.Enum("Size", {"SMALL": "small"})


def _gone(models: Any) -> None:
    del models.__dict__["Order"]


def _module_gone(models: Any) -> None:
    sys.modules[MODULE] = None  # pyright: ignore[reportArgumentType]  # an import of it raises from then on


@pytest.mark.parametrize(
    ("item", "change", "why"),
    [
        (lambda models: models.Order("tea"), _gone, "has no 'Order' any more"),
        (lambda models: [{"deep": models.Order("tea")}], _gone, "has no 'Order' any more"),
        (lambda models: Item(models.Order("tea")), _gone, "has no 'Order' any more"),
        (lambda models: models.Order("tea"), _module_gone, "cannot be imported"),
        (
            lambda models: models.Order("tea"),
            _without_a_field,
            "unexpected keyword argument 'price'",
        ),
        (lambda models: models.Size.LARGE, _without_a_member, "no member with the value 'large'"),
    ],
)
async def test_a_state_of_which_a_class_changed_is_refused_and_stays(
    dsn: str, ledger: Ledger, models: types.ModuleType, item: Any, change: Any, why: str
) -> None:
    await failed(dsn, item(models))
    before = await ledger.rows("t")
    change(models)
    changed()
    async with shop(dsn, looking()) as durable:
        with pytest.raises(GraphChangedError, match=why) as refused:
            await durable.threads.resume("t")
        assert all(name.startswith(MODULE) for name in refused.value.undecodable)
        assert (await durable.threads.status("t")).status is ThreadStatus.FAILED
    assert await ledger.rows("t") == before


async def test_a_value_that_no_channel_reads_any_more_keeps_no_thread(
    dsn: str, models: types.ModuleType
) -> None:
    class With(State, total=False):
        old: Any

    async def take(state: Any) -> Any:
        return {"old": models.Order("tea"), "item": Item("tea")}

    async def look(state: Any) -> Any:
        raise ConnectionError("no route")

    graph = StateGraph(With).add_node("take", take).add_node("look", look)
    graph.add_edge(START, "take").add_edge("take", "look")
    async with shop(dsn, graph) as durable, durable.run("t", "shop") as run:
        with pytest.raises(ConnectionError):
            await run.ainvoke({})
    del models.__dict__["Order"]
    changed()
    async with shop(dsn, looking()) as durable:
        assert (await durable.threads.resume("t"))["seen"] == "Item"


class Cipher:
    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "turned", plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return ciphertext[::-1]


async def test_what_is_encrypted_is_read_with_the_key(dsn: str, models: types.ModuleType) -> None:
    serde = EncryptedSerializer(Cipher())
    kind, blob = serde.dumps_typed({"item": models.Order("tea")})
    del models.__dict__["Order"]
    changed()
    [found] = ValueReader(serde, load_modules=True).undecodable([(kind, blob)])
    assert found.name == f"{MODULE}.Order"


async def test_a_graph_whose_own_checkpointer_encrypts_is_not_stored_in_the_clear(dsn: str) -> None:
    serde = EncryptedSerializer(Cipher())
    graph = looking().compile(checkpointer=InMemorySaver(serde=serde))
    with pytest.raises(ConfigurationError, match="EncryptedSerializer.*JsonPlusSerializer.*serde="):
        async with shop(dsn, graph):
            pass
    async with shop(dsn, graph, serde=serde) as durable, durable.run("t", "shop") as run:
        assert (await run.ainvoke({"item": Item("tea")}))["seen"] == "Item"
