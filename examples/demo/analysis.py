"""What can be said of a section by itself, and of all of them together. Nothing but the text is
asked.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import TypedDict
from urllib.parse import unquote, urlsplit

from examples.demo.documents import Section

__all__ = ["Comparison", "Finding", "Repetition", "analyse", "compare", "reading_ease"]

_SHINGLE = 8
_ALIKE = 0.3
_FENCED = re.compile(r"^ {0,3}(```+|~~~+).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\(\s*<?([^)\s>]+)[^)]*\)")
_MARKUP = re.compile(r"`+[^`]*`+|<[^>]+>|\bhttps?://\S+|^\s*\|?[\s:|-]+\|?\s*$", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+|\n\s*\n|\n(?=\s*(?:[-*+|]|\d+\.)\s)")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_VOWELS = re.compile(r"[aeiouyäöüáéíóúàèìòùâêîôû]+")
_STOP = frozenset(
    _WORD.findall(
        "a about above after again all also am an and any are as at be because been before being below between both but by "
        "can could did do does doing down during each else every few for from further had has have having he her here hers him "
        "his how i if in into is it its itself just may me might more most must my no nor not now of off on once one only or "
        "other our ours out over own same shall she should so some such than that the their theirs them then there these they "
        "this those through to too two under until up upon us very via was we were what when where which while who whom whose "
        "why will with within without would yes yet you your yours"
    )
)


class Finding(TypedDict):
    """What one section is like.

    Attributes:
        words, sentences, syllables: of its prose; code, links' targets and markup do not count.
        lines, code_lines: all its lines, and those in fenced code.
        links: how many it has.
        missing: targets of relative links that are no file.
        longest: its longest sentence, in words.
        longest_text: how that begins.
        terms: its words but the commonest, with their counts.
        shingles: digests of its runs of eight words, to find what is repeated elsewhere.
    """

    index: int
    document: str
    title: str
    words: int
    sentences: int
    syllables: int
    lines: int
    code_lines: int
    links: int
    missing: list[str]
    longest: int
    longest_text: str
    terms: dict[str, int]
    shingles: list[int]


class Repetition(TypedDict):
    """Two sections that say the same: `share` of the shorter one's runs of words stand in the other
    too.
    """

    one: int
    other: int
    share: float


class Comparison(TypedDict):
    """What shows only when all sections are known: each document's key terms by tf-idf, and
    repetitions.
    """

    terms: dict[str, list[str]]
    repetitions: list[Repetition]


def analyse(section: Section) -> Finding:
    """Look at one section."""
    text = section["text"]
    code = [match[0] for match in _FENCED.finditer(text)]
    links = _LINK.findall(text)
    prose = _MARKUP.sub(" ", _LINK.sub(r"\1", _FENCED.sub("\n\n", text)))
    sentences = [
        words for part in _SENTENCE_END.split(prose) if len(words := _WORD.findall(part)) > 1
    ]
    words = [word.lower() for sentence in sentences for word in sentence]
    longest = max(sentences, key=len, default=[])
    return Finding(
        index=section["index"],
        document=section["document"],
        title=section["title"],
        words=len(words),
        sentences=len(sentences),
        syllables=sum(map(_syllables, words)),
        lines=len(text.splitlines()),
        code_lines=sum(len(block.splitlines()) for block in code),
        links=len(links),
        missing=_missing([target for _, target in links], Path(section["document"]).parent),
        longest=len(longest),
        longest_text=" ".join(longest[:12]),
        terms=dict(Counter(word for word in words if word not in _STOP and len(word) > 2)),
        shingles=sorted(
            {_digest(words[at : at + _SHINGLE]) for at in range(len(words) - _SHINGLE + 1)}
        ),
    )


def _syllables(word: str) -> int:
    """Estimated, as usual for English: groups of vowels, a silent e at the end aside."""
    groups = len(_VOWELS.findall(word))
    return max(1, groups - (word.endswith("e") and not word.endswith("le") and groups > 1))


def _digest(words: Sequence[str]) -> int:
    # 63 bits: msgpack's and Postgres's integers hold it. Not hash(): it differs from process to
    # process.
    return int.from_bytes(blake2b(" ".join(words).encode(), digest_size=8).digest(), "big") >> 1


def _missing(targets: Sequence[str], folder: Path) -> list[str]:
    missing: list[str] = []
    for target in targets:
        parts = urlsplit(target)
        relative = (
            parts.path and not parts.scheme and not parts.netloc and not parts.path.startswith("/")
        )
        if relative and not (folder / unquote(parts.path)).exists():
            missing.append(target)
    return missing


def reading_ease(findings: Sequence[Finding]) -> float | None:
    """Flesch's reading ease of several sections together: 100 is very easy, 30 hard. None without a
    sentence.
    """
    words, sentences = sum(f["words"] for f in findings), sum(f["sentences"] for f in findings)
    if not words or not sentences:
        return None
    return (
        206.835 - 1.015 * words / sentences - 84.6 * sum(f["syllables"] for f in findings) / words
    )


def compare(findings: Sequence[Finding]) -> Comparison:
    """Look at all sections together."""
    return Comparison(terms=_key_terms(findings), repetitions=_repetitions(findings))


def _key_terms(findings: Sequence[Finding], count: int = 6) -> dict[str, list[str]]:
    """The terms that tell a document from the others: frequent there, in few sections
    altogether.
    """
    spread = Counter(term for finding in findings for term in finding["terms"])
    documents: dict[str, Counter[str]] = {}
    for finding in findings:
        documents.setdefault(finding["document"], Counter()).update(finding["terms"])
    key: dict[str, list[str]] = {}
    for document, terms in documents.items():
        weight = {
            term: n * math.log((1 + len(findings)) / spread[term]) for term, n in terms.items()
        }
        key[document] = sorted(weight, key=lambda term: (-weight[term], term))[:count]
    return key


def _repetitions(findings: Sequence[Finding]) -> list[Repetition]:
    shingles = {finding["index"]: frozenset(finding["shingles"]) for finding in findings}
    found: list[Repetition] = []
    for one, other in combinations(sorted(shingles), 2):
        shorter = min(len(shingles[one]), len(shingles[other]))
        share = len(shingles[one] & shingles[other]) / shorter if shorter else 0.0
        if share >= _ALIKE:
            found.append(Repetition(one=one, other=other, share=round(share, 3)))
    return sorted(found, key=lambda pair: (-pair["share"], pair["one"], pair["other"]))
