import pickle

import pytest

from aiodurable.dsn import parse_dsn
from aiodurable.errors import ConfigurationError

SECRET = "hunter2"


def message(dsn: str, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_dsn(dsn, environ=environ)
    chain: list[BaseException] = [caught.value]
    while shown := chain[-1].__cause__ or (
        None if chain[-1].__suppress_context__ else chain[-1].__context__
    ):
        chain.append(shown)
    text = "\n".join(map(str, chain))
    assert SECRET not in text
    return text


def test_the_order_is_argument_then_our_variable_then_database_url_then_libpqs() -> None:
    environ = {
        "PGHOST": "fourth",
        "DATABASE_URL": "postgresql://u@third/d",
        "AIODURABLE_DSN": "postgresql://u@second/d",
    }
    found: list[str] = []
    for name in ("AIODURABLE_DSN", "DATABASE_URL", ""):
        found.append(parse_dsn(environ=environ).asyncpg["host"][0])
        environ.pop(name, None)
    assert parse_dsn("postgresql://u@first/d", environ=environ).asyncpg["host"] == ["first"]
    assert found == ["second", "third", "fourth"]


def test_nothing_at_all_is_an_error_that_names_every_way() -> None:
    with pytest.raises(
        ConfigurationError, match=r"for locks.*dsn=.*AIODURABLE_DSN.*DATABASE_URL.*PGHOST"
    ):
        parse_dsn(purpose="locks", environ={})


def test_an_empty_variable_counts_as_none() -> None:
    with pytest.raises(ConfigurationError, match="cannot find a DSN"):
        parse_dsn(environ={"DATABASE_URL": "", "PGHOST": ""})


@pytest.mark.parametrize(
    ("dsn", "says"),
    [
        (f"postgresql://u:%{SECRET}@h/d", "two hexadecimal digits"),
        (f"postgresql://u:{SECRET}/x@h/d", "more than one @"),
        (f"postgresql://u:a@{SECRET}@h/d", "more than one @"),
        (f"postgresql://u:1/{SECRET}@h/d", "more than one @"),
        (f"postgresql://u@h:{SECRET}/d", "not a number from 1 to 65535"),
        (f"host=h password=my {SECRET}", "single quotes"),
        (f"host=h password=my {SECRET}=x", "an option that libpq does not know"),
        (f"host=h password='my {SECRET}", "single quotes"),
        (f"postgresql://u:{SECRET}@h/d?sslmod=require", "did you mean sslmode"),
        (f"mysql://u:{SECRET}@h/d", "must be postgresql://"),
        (SECRET, "must be postgresql://"),
        (f"postgresql://u:{SECRET}@h:1,i:2,j:3/d?port=1,2", "one for each of its 3 hosts"),
        (f"postgresql://u:{SECRET}@h/d?connect_timeout=soon", "whole seconds"),
        (
            f"postgresql://u:{SECRET}@h/d?sslrootcert=system&sslmode=require",
            "needs sslmode=verify-full",
        ),
        (
            f"postgresql://u:{SECRET}@h/d?channel_binding=require",
            "asyncpg cannot keep channel_binding=require",
        ),
        (
            f"postgresql://u:{SECRET}@h/d?gssencmode=require",
            "asyncpg cannot keep gssencmode=require",
        ),
        (
            f"postgresql://u:{SECRET}@h/d?host=/a?port=1&b?c=1",
            "must be postgresql://user:password@",
        ),
        (f"postgresql://u:{SECRET}@h/d?require_auth=scram-sha-256", "require_auth"),
        (f"postgresql://u:{SECRET}@h/d?requirepeer=postgres", "requirepeer"),
    ],
)
def test_a_wrong_dsn_says_what_is_wrong_and_not_the_password(dsn: str, says: str) -> None:
    assert says in message(dsn)


def test_an_error_names_the_variable_it_came_from() -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        parse_dsn(environ={"DATABASE_URL": "nonsense"})


def test_the_error_of_an_unknown_service_names_the_files_that_were_read() -> None:
    assert "/nowhere/pg_service.conf" in message("service=nope", PGSYSCONFDIR="/nowhere")


def test_no_way_of_printing_shows_the_password() -> None:
    dsn = parse_dsn(
        f"postgresql://u:{SECRET}@h:5433/d?sslpassword={SECRET}", environ={"PGPASSWORD": SECRET}
    )
    assert SECRET not in f"{dsn} {dsn!r} {dsn.safe} {dsn.identity}"
    assert dsn.safe == "postgresql://u@h:5433/d"
    assert dsn.asyncpg["password"] == SECRET


def test_the_same_place_has_one_identity_however_it_is_spelled() -> None:
    one = parse_dsn("postgresql+psycopg://u:a@h:5432/d?application_name=x", environ={})
    other = parse_dsn(
        "host=h port=5432 dbname=d user=u connect_timeout=9", environ={"PGPASSWORD": "b"}
    )
    assert one.identity == other.identity
    assert hash(one.identity) == hash(other.identity)


@pytest.mark.parametrize(
    "other", ["v@h/d", "u@i/d", "u@h/e", "u@h:5433/d", "u@h/d?options=-c%20search_path%3Dx"]
)
def test_another_place_user_or_search_path_has_another_identity(other: str) -> None:
    assert (
        parse_dsn("postgresql://u@h/d", environ={}).identity
        != parse_dsn(f"postgresql://{other}", environ={}).identity
    )


def test_a_dsn_pickles() -> None:
    dsn = parse_dsn("postgresql://u:p@h/d", environ={})
    assert pickle.loads(pickle.dumps(dsn)) == dsn


def test_the_connect_timeout_is_for_each_host() -> None:
    assert (
        parse_dsn("postgresql://u@a,b,c/d?connect_timeout=4", environ={}).asyncpg["timeout"] == 12.0
    )
    assert "timeout" not in parse_dsn("postgresql://u@a/d?connect_timeout=0", environ={}).asyncpg
