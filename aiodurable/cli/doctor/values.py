"""The check of how large values are compressed."""

from __future__ import annotations

from aiodurable.cli.doctor.finding import Finding, ok, warn
from aiodurable.dsn import Dsn
from aiodurable.postgres.direct import DirectConnection
from aiodurable.postgres.sql import load
from aiodurable.settings import Settings

__all__ = ["compression"]

_SQL = load("doctor")
_TABLES = ("checkpoint_blobs", "checkpoint_writes", "checkpoints", "aiodurable_runs")


async def compression(direct: Dsn, settings: Settings) -> Finding:
    """How the server compresses the large values that the writers send it."""
    connection = DirectConnection(
        direct, role="doctor", connect_timeout_s=settings.connect_timeout_s
    )
    try:
        origin = await connection.ready()
        [session] = await connection.fetch(_SQL["compression"])
        columns = await connection.fetch(_SQL["own_compression"], list(_TABLES))
    finally:
        connection.drop()
    method: str = session["method"]
    found = f"large values are compressed with {method}"
    if columns:
        others = ", ".join(f"{row['name']} {row['method']}" for row in columns)
        found += f"; columns with a method of their own: {others}"
    if method == "lz4" or settings.compression == "pglz":
        return ok("compression", found)
    slower = f"{found}, which takes several times the CPU of lz4"
    if not session["has_lz4"]:
        return warn(
            "compression",
            f"{slower}; this server was built without that",
            "nothing, while states are small; else a server that was built with lz4",
        )
    if origin.server is None:
        return warn(
            "compression",
            f"{slower}: a pooler is in between, where no session can choose",
            "ALTER ROLE … SET default_toast_compression = 'lz4'",
        )
    return warn(
        "compression",
        f"{slower}: the server's configuration, the database, the role or the DSN's options say so",
        "set compression (AIODURABLE_COMPRESSION) to lz4",
    )
