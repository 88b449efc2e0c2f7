"""Serialisers are LangGraph's business: what one of them does under the stock saver it does
here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from aiodurable import Durable
from aiodurable.checkpoints import AsyncCheckpointerPool
from aiodurable.checkpoints.write_session import WriteSession
from tests.programs import PROGRAMS
from tests.support.checkpoint_rows import checkpoint, config
from tests.support.graphs import four_nodes

PROGRAM = PROGRAMS / "strict_process.py"


@dataclasses.dataclass
class Tide:
    height: float


NOTHING: Sequence[tuple[str, ...]] = ()
TIDE = [(Tide.__module__, Tide.__name__)]


@pytest.mark.parametrize("allowed", [NOTHING, TIDE], ids=["nothing allowed", "the type allowed"])
async def test_an_allowlist_lets_the_same_types_through_as_in_the_stock_saver(
    allowed: Sequence[tuple[str, ...]], dsn: str
) -> None:
    strict = JsonPlusSerializer(allowed_msgpack_modules=None)
    made, versions = checkpoint(value=[Tide(1.5)])
    async with (
        AsyncCheckpointerPool(dsn, serde=strict) as pool,
        AsyncPostgresSaver.from_conn_string(dsn, serde=strict) as plain,
    ):
        ours, stock = (saver.with_allowlist(allowed) for saver in (pool.get_checkpointer(), plain))
        pool.get_checkpointer().sessions.hold(WriteSession(await pool.new_fence("ours")))
        read: list[Any] = []
        for saver, thread in ((ours, "ours"), (stock, "theirs")):
            await saver.aput(config(thread), made, {}, versions)  # pyright: ignore[reportArgumentType]
            await saver.aput_writes(config(thread, made["id"]), [("value", Tide(2.5))], "task")
            for reader in (ours, stock):
                found = await reader.aget_tuple(config(thread))
                assert found is not None
                read.append((found.checkpoint["channel_values"]["value"], found.pending_writes))
    assert read == [read[0]] * 4
    assert (read[0][0] == [Tide(1.5)]) is (allowed is TIDE)


async def test_under_strict_msgpack_a_resumed_run_gets_the_types_of_its_state_back(
    dsn: str,
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        dsn,
        env={**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.decode().splitlines() == ["builder Tide", "compiled Tide", "functional Tide"]


class Shifted:
    """A cipher, of a kind."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "shifted", bytes((byte + 1) % 256 for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "shifted"
        return bytes((byte - 1) % 256 for byte in ciphertext)


async def test_an_encrypted_threads_halves_fit_and_no_value_of_it_is_readable_in_the_tables(
    dsn: str,
) -> None:
    """Half a run here, the other half under the stock saver; the ledger's copy of the input
    included.
    """
    serde = EncryptedSerializer(Shifted())
    broken = True

    async def breaks(step: str) -> None:
        if broken and step == "weigh":
            raise ValueError("not yet")

    async with (
        Durable(dsn, serde=serde) as durable,
        AsyncPostgresSaver.from_conn_string(dsn, serde=serde) as stock,
    ):
        async with durable.run("t", four_nodes(breaks)) as run:
            with pytest.raises(ValueError, match="not yet"):
                await run.ainvoke({"words": ["rosebud"], "told": ""})
        broken = False
        done = await four_nodes(breaks).compile(stock).ainvoke(None, config("t"))
        assert done["words"] == ["rosebud", "collect", "sort", "weigh", "tell"]
        columns = (
            "SELECT blob FROM checkpoint_blobs UNION ALL SELECT blob FROM checkpoint_writes WHERE"
            " channel = 'words' UNION ALL SELECT input FROM aiodurable_runs"
        )
        with psycopg.connect(dsn) as connection:
            stored = [blob for (blob,) in connection.execute(columns)]
    assert len(stored) > 5
    assert not [blob for blob in stored if blob and b"rosebud" in bytes(blob)]
