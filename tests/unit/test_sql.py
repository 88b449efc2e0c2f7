"""Named parameters of the SQL files become Postgres's own, and a wrong one fails the import."""

from __future__ import annotations

from importlib.resources import files

import pytest

from aiodurable.postgres.sql import blocks_of, load, number_parameters

FILES = sorted(
    file.name.removesuffix(".sql")
    for file in files("aiodurable.postgres").joinpath("sql").iterdir()
)


@pytest.mark.parametrize(
    ("text", "numbered"),
    [
        ("SELECT :b::text[], :a, :b", "SELECT $2::text[], $1, $2"),
        ("SELECT x[:a:], y[1:2], '[:a]' || :b", "SELECT x[$1:], y[1:2], '[:a]' || $2"),
        ("SELECT 'it''s :a', \":b\", :b -- :a\n, :a", "SELECT 'it''s :a', \":b\", $2 -- :a\n, $1"),
    ],
    ids=["casts", "slices", "literals and comments"],
)
def test_a_parameter_is_numbered_where_it_stands_as_one(text: str, numbered: str) -> None:
    assert number_parameters("s", ["a", "b"], text) == numbered


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        (["a"], "it uses b; declare each"),
        (["a", "b", "c"], "it declares c and does not use them"),
        (["a", "b", "a"], "it declares a parameter twice"),
    ],
    ids=["undeclared", "unused", "twice"],
)
def test_a_wrong_declaration_fails(declared: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=f"cannot load the statement s: {problem}"):
        number_parameters("s", declared, "SELECT :a, :b")


def test_a_part_that_is_left_out_takes_no_number() -> None:
    assert number_parameters("s", ["a", "b"], "SELECT :b", whole="SELECT :a, :b") == "SELECT $1"


def test_a_parameter_without_a_name_fails() -> None:
    with pytest.raises(ValueError, match=r"it uses \$1; give the parameter a name"):
        number_parameters("s", [], "SELECT $1, '$2'")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2", "it has two blocks a"),
        ("SELECT 1\n-- name: a\nSELECT 2", "its text begins before its first block"),
        ("-- name: a\nSELECT 1\n-- name: b :many\nSELECT 2", "it cannot read '-- name: b :many'"),
        ("-- name: a\n--params: x\nSELECT 1", "it cannot read '--params: x'"),
        ("-- name: a\nSELECT 1\n-- include: other-part", "it cannot read '-- include: other-part'"),
        ("-- name: a\nSELECT 1\n -- Include if x: b", "it cannot read '-- Include if x: b'"),
    ],
    ids=["two of a name", "before the first", "more in a name", "no space", "hyphen", "capital"],
)
def test_a_line_for_the_loader_is_never_lost_as_a_comment(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"cannot load f.sql: {problem}"):
        blocks_of("f", text)


def test_a_part_that_no_block_has_fails() -> None:
    with pytest.raises(ValueError, match="it has no part statsues"):
        load("queue", "statsues")


@pytest.mark.parametrize("name", FILES)
def test_every_file_loads(name: str) -> None:
    assert load(name)
    for block, statement in load(name).items():
        assert "-- include" not in statement, block
        assert "-- params" not in statement, block
