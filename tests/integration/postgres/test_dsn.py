"""One DSN, two drivers: each spelling reaches the same live server, as the same user, through
both.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from aiodurable.dsn import Dsn, parse_dsn
from aiodurable.embedded import EmbeddedPostgres
from tests.support.ports import free_port

PASSWORD = "s3cret/@:% é"
QUOTED = "s3cret%2F%40%3A%25%20%C3%A9"
ASK = (
    "SELECT current_database() AS database, current_user AS role, inet_server_port() AS port,"
    " current_setting('application_name') AS application, current_setting('statement_timeout') AS"
    " statement_timeout, (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS tls"
)


@dataclass
class Secured:
    """A server on TCP with passwords and TLS."""

    port: int
    folder: Path
    tls: bool

    @property
    def url(self) -> str:
        return f"postgresql://visitor:{QUOTED}@localhost:{self.port}/visited"


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    with tempfile.TemporaryDirectory(prefix="ad-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "pg_hba.conf").write_text(
            "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "hba_file": str(folder / "pg_hba.conf"),
        }
        if bindir := bindir_with_tls():
            settings |= certificate(folder)
        with EmbeddedPostgres(bindir=bindir, durable=False, settings=settings) as url:
            with psycopg.connect(url, autocommit=True) as connection:
                create = sql.SQL("CREATE ROLE visitor LOGIN PASSWORD {}")
                connection.execute(create.format(sql.Literal(PASSWORD)))
                connection.execute("CREATE DATABASE visited OWNER visitor")
            yield Secured(port, folder, tls=bindir is not None)


@pytest.fixture
def tls(secured: Secured) -> Secured:
    if not secured.tls:
        pytest.skip(
            "no Postgres with TLS here: the wheel's has none, and the system has no Postgres or no"
            " openssl"
        )
    return secured


def bindir_with_tls() -> Path | None:
    if shutil.which("openssl"):
        for postgres in Path("/usr/lib/postgresql").glob("*/bin/postgres"):
            libraries = subprocess.run(
                ["ldd", postgres], capture_output=True, text=True, check=True
            ).stdout
            if "libssl" in libraries:
                return postgres.parent
    return None


def certificate(folder: Path) -> dict[str, str]:
    """A certificate for localhost, signed by itself, and the settings that name it."""
    key, signed = folder / "server.key", folder / "server.crt"
    make = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj"
        " /CN=localhost"
    )
    names = [
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(signed),
    ]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)
    if os.geteuid() == 0:
        # Postgres takes a key of root's if its group may read it and others may not.
        os.chown(key, 0, pwd.getpwnam("postgres").pw_gid)
        key.chmod(0o640)
    return {"ssl": "on", "ssl_key_file": str(key), "ssl_cert_file": str(signed)}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [
        name
        for name in os.environ
        if name.startswith("PG") or name in ("AIODURABLE_DSN", "DATABASE_URL")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody's ~/.pgpass and ~/.postgresql


async def both(dsn: Dsn) -> dict[str, Any]:
    """What the server says of a connection by either driver; they must agree."""
    async with await psycopg.AsyncConnection.connect(dsn.conninfo) as connection:
        cursor = psycopg.AsyncCursor(connection, row_factory=dict_row)
        one = await (await cursor.execute(ASK)).fetchone()
    connection = await asyncpg.connect(**dsn.asyncpg)
    try:
        other = dict(await connection.fetchrow(ASK))
    finally:
        await connection.close()
    assert one == other
    return other


SPELLINGS = {
    "postgresql": "postgresql://{rest}",
    "postgres": "postgres://{rest}",
    "psycopg": "postgresql+psycopg://{rest}",
    "psycopg2": "postgresql+psycopg2://{rest}",
    "asyncpg": "postgresql+asyncpg://{rest}",
    "key=value": "host=localhost port={port} user=visitor dbname=visited password='s3cret/@:% é'",
    "connect_timeout": "postgresql://{rest}?connect_timeout=5",
    "connect_timeout=0": "postgresql://{rest}?connect_timeout=0",
    "channel_binding": "postgresql://{rest}?channel_binding=prefer",
    "gssencmode": "postgresql://{rest}?gssencmode=disable",
    "client_encoding": "postgresql://{rest}?client_encoding=utf8",
    "load_balance_hosts": "postgresql://{rest}?load_balance_hosts=random",
    "hostaddr": (
        "host=no-such-host.invalid hostaddr=127.0.0.1 port={port} user=visitor dbname=visited "
        "password='s3cret/@:% é'"
    ),
    "target_session_attrs": "postgresql://{rest}?target_session_attrs=read-write",
    "sslmode=prefer": "postgresql://{rest}?sslmode=prefer",
    "sslmode=require": "postgresql://{rest}?sslmode=require",
    "ssl_min_protocol_version": (
        "postgresql://{rest}?sslmode=require&ssl_min_protocol_version=TLSv1.3"
    ),
    "verify-full": "postgresql://{rest}?sslmode=verify-full&sslrootcert={folder}/server.crt",
    "verify-full and hostaddr": (
        "postgresql://{rest}?sslmode=verify-full&sslrootcert={folder}/server.crt&hostaddr=127.0.0.1"
    ),
    "two hosts, the first refuses": (
        "postgresql://visitor:{password}@localhost:1,localhost:{port}/visited"
    ),
    "two hosts, two addresses": (
        "host=one,two hostaddr=127.0.0.1,127.0.0.1 port=1,{port} user=visitor dbname=visited "
        "password='s3cret/@:% é'"
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_both_drivers_reach_the_same_place(secured: Secured, spelling: str) -> None:
    rest = secured.url.removeprefix("postgresql://")
    text = spelling.format(rest=rest, port=secured.port, folder=secured.folder, password=QUOTED)
    if "ssl" in spelling and "prefer" not in spelling and not secured.tls:
        pytest.skip("no Postgres with TLS here")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = await both(parse_dsn(text))
    assert (found["database"], found["role"], found["port"]) == ("visited", "visitor", secured.port)
    assert found["tls"] is secured.tls


@pytest.mark.parametrize(
    "option",
    [
        "keepalives=1",
        "keepalives_idle=10",
        "keepalives_interval=5",
        "keepalives_count=3",
        "tcp_user_timeout=9",
    ],
)
async def test_an_option_asyncpg_lacks_is_left_out_with_a_warning(
    secured: Secured, option: str
) -> None:
    with pytest.warns(UserWarning, match=option.partition("=")[0]):
        dsn = parse_dsn(f"{secured.url}?{option}")
    assert dsn.dropped == (option.partition("=")[0],)
    assert option.partition("=")[0] in dsn.conninfo
    assert (await both(dsn))["role"] == "visitor"


async def test_application_name_and_options_arrive_by_both_drivers(secured: Secured) -> None:
    dsn = parse_dsn(f"{secured.url}?application_name=orders&options=-c%20statement_timeout%3D7s")
    found = await both(dsn)
    assert (found["application"], found["statement_timeout"]) == ("orders", "7s")


async def test_sslmode_disable_is_obeyed_by_both_drivers(secured: Secured) -> None:
    assert (await both(parse_dsn(f"{secured.url}?sslmode=disable")))["tls"] is False


async def test_a_server_with_an_unknown_certificate_is_refused_by_both_drivers(
    tls: Secured,
) -> None:
    dsn = parse_dsn(f"{tls.url}?sslrootcert=system")
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        await psycopg.AsyncConnection.connect(dsn.conninfo)
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        await asyncpg.connect(**dsn.asyncpg)


async def test_the_systems_own_roots_are_trusted_by_both_drivers(
    tls: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.folder / "server.crt"))
    assert (await both(parse_dsn(f"{tls.url}?sslrootcert=system")))["tls"] is True
    direct = f"{tls.url}?sslrootcert=system&sslnegotiation=direct"
    if (await _version(tls)) >= 17:
        assert (await both(parse_dsn(direct)))["tls"] is True


async def _version(secured: Secured) -> int:
    async with await psycopg.AsyncConnection.connect(secured.url) as connection:
        return connection.info.server_version // 10000


async def test_the_pg_variables_lead_both_drivers_to_the_same_place(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "PGHOST": "localhost",
        "PGPORT": str(secured.port),
        "PGUSER": "visitor",
        "PGDATABASE": "visited",
        "PGPASSWORD": PASSWORD,
        "PGAPPNAME": "from the environment",
        "PGOPTIONS": "-c statement_timeout=8s",
        "PGCONNECT_TIMEOUT": "5",
        "PGCHANNELBINDING": "prefer",
        "PGSSLMODE": "require" if secured.tls else "prefer",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    found = await both(parse_dsn())
    assert (found["role"], found["port"], found["tls"]) == ("visitor", secured.port, secured.tls)
    assert (found["application"], found["statement_timeout"]) == ("from the environment", "8s")


async def test_what_the_dsn_leaves_open_comes_from_the_environment_and_no_more(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("PGDATABASE", "nowhere")
    found = await both(parse_dsn(f"postgresql://visitor@localhost:{secured.port}/visited"))
    assert found["database"] == "visited"


@pytest.mark.parametrize("by", ["argument", "variable"])
async def test_a_service_is_read_for_both_drivers(
    secured: Secured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: str
) -> None:
    lines = [
        f"port={secured.port}",
        "host=localhost",
        "user=visitor",
        f"password={PASSWORD}",
        "dbname=nowhere",
    ]
    (tmp_path / "services").write_text(
        "\n".join(["# ours", "[here]", *lines, "application_name=served", ""])
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    if by == "variable":
        monkeypatch.setenv("PGSERVICE", "here")
    found = await both(parse_dsn("dbname=visited" + (" service=here" if by == "argument" else "")))
    assert (found["database"], found["application"], found["port"]) == (
        "visited",
        "served",
        secured.port,
    )


@pytest.mark.parametrize("by", ["option", "variable", "home"])
async def test_a_password_file_is_read_by_both_drivers(
    secured: Secured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: str
) -> None:
    passfile = tmp_path / ".pgpass"
    escaped = PASSWORD.replace(":", r"\:")
    passfile.write_text(f"localhost:{secured.port}:visited:visitor:{escaped}\n")
    passfile.chmod(0o600)
    if by == "variable":
        monkeypatch.setenv("PGPASSFILE", str(passfile))
    option = f"?passfile={passfile}" if by == "option" else ""
    found = await both(parse_dsn(f"postgresql://visitor@localhost:{secured.port}/visited{option}"))
    assert found["role"] == "visitor"


async def test_a_unix_socket_is_reached_by_both_drivers(dsn: str) -> None:
    assert (await both(parse_dsn(dsn)))["database"] == parse_dsn(dsn).asyncpg["database"]


async def test_without_a_user_both_drivers_take_the_operating_systems(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    dsn = parse_dsn("host=localhost dbname=visited")
    assert dsn.asyncpg["user"] != "somebody-else"
    assert f"user={dsn.asyncpg['user']}" in dsn.conninfo
