"""SQL lives in `sql/*.sql`, in named blocks with named parameters.

    -- name: token
    -- params: thread_id
    -- aiodurable_fences_pkey.
    SELECT f.token FROM aiodurable_fences f WHERE f.thread_id = :thread_id

The order of `params` is the order in which Python passes them. A comment names the index. A line
`-- include: block`, or `file.block` from another file, stands for the text of that block;
`-- include if part: block` only where the caller loads that part. A block that begins with
`-- fragment:` is for including only. Parameters are those of the block that includes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType

__all__ = [
    "blocks_of",
    "careful",
    "literal",
    "load",
    "migration_files",
    "number_parameters",
    "qualified",
]

_HEAD = re.compile(r"^-- (name|fragment): (\w+)\n", re.MULTILINE)
_PARAMS = re.compile(r"^-- params: (.*)\n", re.MULTILINE)
_INCLUDE = re.compile(r"^ *-- include(?: if (?P<part>\w+))?: (?P<target>[\w.]+)$", re.MULTILINE)
_UNREAD = re.compile(
    r"^ *-- *(?:name|fragment|params|include(?: if [^:\n]*)?) *:.*", re.MULTILINE | re.IGNORECASE
)
"""A line that is meant for the loader and written in another way than it reads."""
_TOKEN = re.compile(
    r"""
    '(?:[^']|'')*' | "[^"]*" | --[^\n]* | ::  # in these a colon begins no parameter
    | (?<!\w) : ([a-z]\w*)                    # nor does that of a slice, array[from:to]
    | \$ (\d+)
    """,
    re.VERBOSE,
)
_CALL = re.compile(r"(?<![\w.])(array_agg|convert_to|jsonb_each_text)\(")
_EACH = re.compile(r"jsonb_each_text\((\w+ -> '\w+')\)")
_BLOBS = re.compile(
    r"inner join (checkpoint_blobs (\w+))\s+on ((?:\s*(?:and )?\w+\.\w+ = \w+\.\w+)+)"
)
_CAST = re.compile(r"\((\w+\.\w+ ->> '\w+'::text)\)::(integer|timestamptz)")
_VALID = {
    "integer": "^-?[0-9]{1,9}$",
    "timestamptz": (
        "^(?:[12][0-9]{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
        "|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
        "|[12][0-9](?:0[48]|[2468][048]|[13579][26])-02-29|(?:1[26]|2[048])00-02-29)"
        "[T ](?:[01][0-9]|2[0-3])(?::[0-5][0-9]){2}(?:[.][0-9]{1,9})?"
        "(?:Z|[+-](?:0[0-9]|1[0-4]):?[0-5][0-9])?$"
    ),
}
"""What Postgres can cast, of texts in JSON: years 1000 to 2999, as Python's isoformat and
JavaScript write times.
"""
_KEY = re.compile(r"(->>? '\w+')(?!::)")


@cache
def load(name: str, *parts: str) -> Mapping[str, str]:
    """The statements of `sql/<name>.sql` by name, with Postgres's own parameters `$1`, `$2` …

    Args:
        name: the file.
        parts: the optional parts to include.

    Raises:
        ValueError: a parameter is not declared, or is not used, or an included block or a part is
            missing, or `blocks_of` refuses the file.
    """
    known = {line["part"] for _, text in _blocks(name).values() for line in _INCLUDE.finditer(text)}
    if unknown := set(parts) - known:
        msg = f"cannot load {name}.sql: it has no part {', '.join(sorted(unknown))}"
        raise ValueError(msg)
    statements = {
        block: _statement(name, block, frozenset(parts))
        for block, (kind, _) in _blocks(name).items()
        if kind == "name"
    }
    return MappingProxyType(statements)


@cache
def _blocks(name: str) -> Mapping[str, tuple[str, str]]:
    file = files("aiodurable.postgres").joinpath("sql", f"{name}.sql")
    return blocks_of(name, file.read_text("utf-8"))


def blocks_of(name: str, text: str) -> Mapping[str, tuple[str, str]]:
    """Kind and text of each block of `name.sql`, whose text is given.

    Raises:
        ValueError: text before the first block, two blocks of a name, or a line that looks like a
            directive and is none: as a comment it would be lost without a word.
    """
    before, *parts = _HEAD.split(text)
    names = parts[1::3]
    unread = _UNREAD.search(_INCLUDE.sub("", _PARAMS.sub("", _HEAD.sub("", text))))
    twice = {block for block in names if names.count(block) > 1}
    if before.strip():
        problem = "its text begins before its first block"
    elif unread is not None:
        problem = f"it cannot read {unread[0].strip()!r}"
    elif twice:
        problem = f"it has two blocks {', '.join(sorted(twice))}"
    else:
        kinds = zip(parts[::3], map(str.strip, parts[2::3]), strict=True)
        return dict(zip(names, kinds, strict=True))
    msg = f"cannot load {name}.sql: {problem}"
    raise ValueError(msg)


def _statement(name: str, block: str, parts: frozenset[str]) -> str:
    """A block with its includes, whose parameters are numbered in the order of `params`."""
    declared, text = _declared(_blocks(name)[block][1])
    return number_parameters(
        f"{name}.{block}", declared, _include(name, text, parts), _include(name, text, None)
    )


def _declared(text: str) -> tuple[list[str], str]:
    """The parameters that a block declares, and its text without them."""
    declared = re.findall(r"\w+", " ".join(_PARAMS.findall(text)))
    return declared, _PARAMS.sub("", text).strip()


def _include(name: str, text: str, parts: frozenset[str] | None) -> str:
    """The text of a block of `name.sql` with its includes; None takes every optional part."""

    def included(line: re.Match[str]) -> str:
        part, target = line["part"], line["target"]
        if part is not None and parts is not None and part not in parts:
            return ""
        if target == "langgraph.select":
            from langgraph.checkpoint.postgres.base import (  # noqa: PLC0415 - 0.6 s, for few files
                BasePostgresSaver,
            )

            return qualified(BasePostgresSaver.SELECT_SQL)
        *other, block = target.split(".")
        file = other[0] if other else name
        if block not in _blocks(file):
            msg = f"cannot load {name}.sql: it includes {target!r}, which is missing"
            raise ValueError(msg)
        return _include(file, _declared(_blocks(file)[block][1])[1], parts)

    return _INCLUDE.sub(included, text)


def number_parameters(
    statement: str, declared: Sequence[str], text: str, whole: str | None = None
) -> str:
    """`text` with `$1`, `$2` … in place of `:name`, numbered in the order of `declared`.

    A declared parameter of an optional part that `text` leaves out has no number.

    Args:
        statement: its name, for an error.
        declared: the parameters, in order.
        text: the statement.
        whole: the statement with every optional part, which uses every declared parameter.
    """
    used, needed = _used(text), _used(text if whole is None else whole)
    if numbers := [token[2] for token in _TOKEN.finditer(text) if token[2]]:
        problem = f"it uses ${numbers[0]}; give the parameter a name"
    elif undeclared := [name for name in needed if name not in declared]:
        problem = f"it uses {', '.join(undeclared)}; declare each in its `-- params:`"
    elif unused := [name for name in declared if name not in needed]:
        problem = f"it declares {', '.join(unused)} and does not use them; remove them"
    elif len(set(declared)) < len(declared):
        problem = "it declares a parameter twice; remove one"
    else:
        in_order = [name for name in declared if name in used]
        number = {name: f"${at}" for at, name in enumerate(in_order, 1)}
        return _TOKEN.sub(lambda token: number[token[1]] if token[1] else token[0], text)
    msg = f"cannot load the statement {statement}: {problem}"
    raise ValueError(msg)


def _used(text: str) -> set[str]:
    return {token[1] for token in _TOKEN.finditer(text) if token[1]}


@cache
def migration_files() -> Mapping[str, str]:
    """The texts of `migrations/NNNN_name.sql` by the name of the file, in order."""
    folder = files("aiodurable.postgres").joinpath("migrations")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return MappingProxyType({name: folder.joinpath(name).read_text("utf-8") for name in names})


def literal(statement: str, *values: int | str) -> str:
    """The statement with its parameters written in, for a protocol that takes none."""
    texts = [
        str(value) if isinstance(value, int) else "'{}'".format(value.replace("'", "''"))
        for value in values
    ]
    return re.sub(r"\$(\d+)", lambda number: texts[int(number[1]) - 1], statement)


@cache
def careful(sql: str) -> str:
    """The statement with null where a key of a JSON column is no number or no time, instead of an
    error.

    It costs a tenth of a millisecond a row, so it is for tables in which there is such a row.
    """
    return _CAST.sub(lambda cast: f"substring({cast[1]} FROM '{_VALID[cast[2]]}')::{cast[2]}", sql)


def qualified(sql: str) -> str:
    """LangGraph's statement, so that it calls nothing but what is in pg_catalog.

    A column that holds no JSON object where LangGraph writes one has no keys then, rather than
    failing the statement for every thread that it is about. Each value is a look-up by
    checkpoint_blobs_pkey: LIMIT keeps it one. As a join Postgres may read every value that the
    thread ever had, where most namespaces have few and this one has many.
    """
    guarded = (
        r"jsonb_each_text(case when pg_catalog.jsonb_typeof(\1) = 'object' then \1 else '{}' end)"
    )
    looked_up = r"cross join lateral (select \2.* from \1 where \3 limit 1) \2"
    guarded_sql = _EACH.sub(guarded, _BLOBS.sub(looked_up, sql))
    return _KEY.sub(r"\1::text", _CALL.sub(r"pg_catalog.\1(", guarded_sql))
