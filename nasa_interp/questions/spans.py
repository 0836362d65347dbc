"""Spans of text as answers: names, dates, numbers, phrases; when two say the same, and wrong ones of the same kind."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from .drawing import shuffled
from .entities import NAME, Passage, family_of, is_name, named
from .numbers import same_number, wrong_numbers
from .short import Candidate

_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
# From the fullest way to write a date to the shortest; a date is exchanged for one that is written alike.
_DATES = (
    rf"\b{_MONTH} \d{{1,2}}, \d{{4}}\b",
    rf"\b\d{{1,2}} {_MONTH} \d{{4}}\b",
    rf"\b{_MONTH} \d{{4}}\b",
    rf"\b{_MONTH} \d{{1,2}}\b(?!,? \d{{4}})",
    rf"\b\d{{1,2}} {_MONTH}\b(?! \d{{4}})",
    r"\b\d{1,2}(?:st|nd|rd|th) century\b",
    r"\b(?:1\d{3}|20[0-3]\d)s\b",
    r"(?<![\d,.])(?:1\d{3}|20[0-3]\d)(?![\d,.]\d|\d|s\b)",
)
_NUMBER = r"(?<![\d,.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\d|[,.]\d|st\b|nd\b|rd\b|th\b)"
_ORDINAL = r"\b(\d{1,2})(st|nd|rd|th)\b"
# Words in a row stand for each other: of the first kind the nearest ones, of the second any.
_COUNTED = (
    "one two three four five six seven eight nine ten eleven twelve",
    "first second third fourth fifth sixth seventh eighth ninth tenth",
)
_OPPOSED = (
    "north-east north-west south-east south-west",
    "northeast northwest southeast southwest",
    "northern southern eastern western",
    "north south east west",
    "leading supporting",
    "above below",
    "before after",
    "largest smallest",
    "communist democratic",
    "father mother",
    "male female",
    "won lost",
    "british french german spanish portuguese dutch russian turkish",
    "italians germans russians greeks spaniards hungarians",
)


def normal(text: str) -> str:
    """A text without case, accents, articles, punctuation and more than one space; "1,000" is 1000."""
    text = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    words = re.sub(r"[^\w\s]|_", " ", re.sub(r"(?<=\w)['\u2019.](?=\w)", "", text)).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


@dataclass(frozen=True)
class Gold:
    """A right answer and its aliases.

    Args:
        texts: the answer first.
    """

    texts: tuple[str, ...]

    def same(self, text: str) -> bool:
        """Whether a text says one of these: normalised the same, or the same number."""
        return any(normal(text) == normal(gold) or same_number(text, gold) for gold in self.texts)

    def may_be(self, text: str) -> bool:
        """Whether a text could be taken for one of these: the same, one within the other, or another form of a name."""
        return self.same(text) or any(_overlap(normal(text), normal(gold)) for gold in self.texts)


def _overlap(text: str, gold: str) -> bool:
    if not text or not gold or text in gold or gold in text:
        return True
    words, golds = text.split(), gold.split()
    if set(words) <= set(golds) or set(golds) <= set(words):
        return True
    # Michael Rogers and Mike Rogers, J. Smith and John Smith.
    names = 1 < len(words) < 5 and 1 < len(golds) < 5 and words[-1] == golds[-1] and (words[0] + words[-1]).isalpha()
    return names and words[0][0] == golds[0][0] and words[0] != golds[0]


def wrong_spans(
    gold: Gold, question: str, asked: str, passages: Sequence[Passage], others: Sequence[tuple[str, str]], rng: Random
) -> Iterator[Candidate]:
    """Other answers of the same kind, from the passages.

    Args:
        gold: the right answer and its aliases.
        question: the whole question: what it names is no candidate.
        asked: the part of it that asks for the answer ("Who is the father of ...?"), which says what kind it is.
        passages: where other answers are looked for, those that matter first.
        others: answers to other parts of the question, each with the words that ask for it.
        rng: draws.

    Returns:
        Candidates made by "date", "number" or "entity", all from the passages; else by changing a digit or a counting
        word ("digit", "off by one", "word"); and of phrases by changing the name within ("entity within").

    Caveat: checked against the answer and its aliases, not the world: of two brothers, the one whom the data don't name
    may be proposed.
    """
    answer, texts = gold.texts[0], [passage.text for passage in passages]
    candidates = [*_dates(answer, texts, rng), *_numbers(answer, texts, rng)]
    if not candidates and is_name(answer):
        candidates = [Candidate(name, "entity") for name in named(answer, asked, passages, others, rng)]
    elif not candidates:
        candidates = [*_words(answer, rng), *_inner(answer, passages, others, rng)]
    for candidate in candidates:
        stated = normal(candidate.answer)
        if stated and stated not in normal(question) and not gold.may_be(candidate.answer):
            yield candidate


def _dates(answer: str, texts: Sequence[str], rng: Random) -> Iterator[Candidate]:
    """Dates that are written alike in place of the answer's own; where there are none, with another digit."""
    pattern = next((p for p in _DATES if re.search(p, answer)), None)
    if pattern is None:
        return
    found = re.search(pattern, answer)
    assert found is not None
    for text in texts:  # the first passages matter most
        for other in shuffled(dict.fromkeys(re.findall(pattern, text)), rng):
            changed = answer[: found.start()] + other + answer[found.end() :]
            if abs(_year(other) - _year(found[0])) <= 150 and _rises(changed) == _rises(answer):
                yield Candidate(changed, "date")
    year = re.search(r"\d+(?=\D*$)", found[0])
    if year is not None:
        for near in wrong_numbers(year[0], rng):
            changed = found[0][: year.start()] + near.answer + found[0][year.end() :]
            changed = answer[: found.start()] + _ordinals(changed) + answer[found.end() :]
            if abs(_year(changed) - _year(answer)) <= 30 and _rises(changed) == _rises(answer):
                yield Candidate(changed, near.made)


def _rises(text: str) -> bool:
    """Whether the first two numbers in a text, such as the years of a war, are in order."""
    numbers = [int(n) for n in re.findall(r"\d{3,4}", text)]
    return numbers[:2] == sorted(numbers[:2])


def _ordinals(text: str) -> str:
    """A text in which 13st is 13th."""
    ends = {1: "st", 2: "nd", 3: "rd"}
    return re.sub(_ORDINAL, lambda m: m[1] + ("th" if 10 < int(m[1]) < 14 else ends.get(int(m[1]) % 10, "th")), text)


def _year(date: str) -> int:
    found = re.search(r"\d{4}", date)
    return int(found[0]) if found else 0


def _numbers(answer: str, texts: Sequence[str], rng: Random) -> Iterator[Candidate]:
    """Numbers as long as the answer's in its place; where there are none, with another digit."""
    # "2nd Baronet" is somebody's name.
    found = re.search(_NUMBER, answer) or (
        None if answer[0].isalpha() and is_name(answer) else re.search(_ORDINAL, answer)
    )
    if found is None or any(re.search(p, answer) for p in _DATES):
        return
    form = re.sub(r"\d", "0", found[0])
    for text in texts:
        alike = [n for n in re.findall(_NUMBER, text) if re.sub(r"\d", "0", n) == form]
        for other in shuffled(dict.fromkeys(n for n in alike if not re.fullmatch(_DATES[-1], n)), rng):
            changed = answer[: found.start()] + other + answer[found.end() :]
            if _rises(changed) == _rises(answer):
                yield Candidate(changed, "number")
    for near in wrong_numbers(found[0], rng):
        if not re.fullmatch(_ORDINAL, found[0]) or near.made == "off by one":
            yield Candidate(answer[: found.start()] + _ordinals(near.answer) + answer[found.end() :], near.made)


def _words(answer: str, rng: Random) -> Iterator[Candidate]:
    """Another counting word, or the opposite of a word."""
    for row in (*_COUNTED, *_OPPOSED):
        words = [str(word) for word in row.split()]
        for found in re.finditer(rf"(?<![\w-])(?:{'|'.join(words)})(?!\w)", answer, re.IGNORECASE):
            place = words.index(found[0].lower())
            near = words[max(0, place - 2) : place + 3] if row in _COUNTED else words
            for other in shuffled([word for word in near if word != words[place]], rng):
                changed = other.capitalize() if found[0][0].isupper() else other
                yield Candidate(answer[: found.start()] + changed + answer[found.end() :], "word")


def _inner(
    answer: str, passages: Sequence[Passage], others: Sequence[tuple[str, str]], rng: Random
) -> Iterator[Candidate]:
    """A phrase with another name in it."""
    for found in shuffled(list(NAME.finditer(answer)), rng):
        if found[0] == answer:
            continue
        before = answer[: found.start()].rstrip()
        asked = "where" if before.endswith((" in", " at", " near", " of", " from")) else ""
        if not family_of(found[0], asked, passages):
            continue
        for name in named(found[0], asked, passages, others, rng, sure=True):
            if normal(name) not in normal(answer):
                yield Candidate(answer[: found.start()] + name + answer[found.end() :], "entity within")
