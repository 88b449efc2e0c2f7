"""What the demo's workflow does with text."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiodurable.errors import ConfigurationError
from examples.demo import analysis, documents, report


def section(
    text: str, *, index: int = 0, document: str = "/texts/a.md", title: str = "Title"
) -> documents.Section:
    return documents.Section(index=index, document=document, title=title, text=text)


def titles(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return [found["title"] for found in documents.read([path])]


def test_headings_divide_a_document_and_those_in_code_do_not(tmp_path: Path) -> None:
    text = "before\n\n# One\n\nfirst\n\n```sh\n# no heading\n```\n\n## Two #\n\nsecond\n"
    assert titles(tmp_path / "a.md", text) == ["a.md", "One", "Two"]


def test_underlined_headings_divide_too(tmp_path: Path) -> None:
    assert titles(tmp_path / "a.rst", "Title\n=====\n\ntext\n\nPart\n----\n\nmore\n") == [
        "Title",
        "Part",
    ]


def test_a_long_text_without_headings_is_divided_between_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    assert titles(path, "\n\n".join(["word " * 250] * 5)) == [
        "book.txt",
        "book.txt (2)",
        "book.txt (3)",
    ]
    assert sum(len(found["text"].split()) for found in documents.read([path])) == 1250


def test_python_gives_its_docstrings(tmp_path: Path) -> None:
    text = (
        '"""The module."""\n\nclass A:\n    """The class."""\n\n    def f(self) -> None:\n       '
        " pass\n"
    )
    assert titles(tmp_path / "m.py", text) == ["m.py", "m.A"]


def test_a_folder_gives_its_documents_in_order_and_nothing_hidden(tmp_path: Path) -> None:
    for name in (
        "b.md",
        "a.txt",
        "image.png",
        ".hidden.md",
        ".git/c.md",
        "node_modules/d.md",
        "sub/e.rst",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    assert [path.name for path in documents.find(tmp_path)] == ["a.txt", "b.md", "e.rst"]


def test_the_projects_own_documents_are_the_default() -> None:
    found = documents.find(None)
    assert found[0].name == "README.md"
    assert documents.read(found)


def test_no_documents_and_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot find documents \(.*\.md"):
        documents.find(tmp_path)
    binary = tmp_path / "a.txt"
    binary.write_bytes(b"\x7fELF\0\0")
    with pytest.raises(ConfigurationError, match="it is binary"):
        documents.find(binary)


def test_words_are_counted_in_prose_alone() -> None:
    found = analysis.analyse(
        section(
            "Read [the guide](guide.md) first. It is short.\n\n```python\nimport this\n```\n\nSee"
            " `code` then.\n"
        )
    )
    assert (found["words"], found["sentences"], found["links"]) == (9, 3, 1)
    assert (found["lines"], found["code_lines"]) == (7, 3)
    assert found["terms"] == {"read": 1, "guide": 1, "first": 1, "short": 1, "see": 1}


def test_a_link_to_no_file_is_found_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "there is.md").write_text("text")
    text = (
        "[a](gone.md#part) [b](there%20is.md) [c](https://example.org/x) [d](#here) [e](/rooted.md)"
        " [f](mailto:a@b)"
    )
    assert analysis.analyse(section(text, document=str(tmp_path / "a.md")))["missing"] == [
        "gone.md#part"
    ]


def test_plain_words_read_easier_than_long_ones() -> None:
    easy = analysis.analyse(section("The cat sat on the mat. The dog ran to the door."))
    hard = analysis.analyse(
        section(
            "Notwithstanding considerable institutional heterogeneity, organizational"
            " interdependencies proliferate."
        )
    )
    assert (analysis.reading_ease([easy]) or 0) > 90
    assert (analysis.reading_ease([hard]) or 0) < 0
    assert analysis.reading_ease([analysis.analyse(section("```\ncode\n```"))]) is None


def test_what_is_said_twice_is_found_across_documents() -> None:
    said = "The lease is free after any exit, and the status is true whatever happened in between. "
    texts = [
        said + "One goes on like this.",
        "Nothing of that kind stands in here at all.",
        "Another begins. " + said,
    ]
    findings = [analysis.analyse(section(text, index=n)) for n, text in enumerate(texts)]
    (pair,) = analysis.compare(findings)["repetitions"]
    assert (pair["one"], pair["other"]) == (0, 2)
    assert 0.3 < pair["share"] < 1


def test_key_terms_tell_a_document_from_the_others() -> None:
    texts = {"/t/locks.md": "common lock lock lease", "/t/writes.md": "common batch batch commit"}
    findings = [
        analysis.analyse(section(text, index=n, document=name))
        for n, (name, text) in enumerate(texts.items())
    ]
    terms = analysis.compare(findings)["terms"]
    assert terms["/t/locks.md"][0] == "lock"
    assert terms["/t/writes.md"][0] == "batch"


def test_the_same_findings_in_any_order_give_the_same_report() -> None:
    findings = [
        analysis.analyse(
            section(f"Text {n} | has a bar.", index=n, title=f"T|{n}", document=f"/t/{n % 2}.md")
        )
        for n in range(4)
    ]
    comparison = analysis.compare(findings)
    written = report.render(findings, comparison)
    assert written == report.render(findings[::-1], analysis.compare(findings[::-1]))
    rows = [line for line in written.splitlines() if line.startswith("| 1 |")]
    assert rows == ["| 1 | 0.md › T\\|0 | 4 | 118 | 4 | bar, text |"]
