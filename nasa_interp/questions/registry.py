"""One way to name data: `source:path#split`, or a path."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

from ..errors import QuestionError, warn_user
from .ar_lsat import load_ar_lsat
from .files import SUFFIXES, load_file
from .gsm8k import load_gsm8k
from .hub import load_hub
from .math_problems import load_math
from .musique import load_musique
from .question import BinaryQuestion, QuestionList
from .reading_rows import Item, NamedRows, sort_items
from .specification import path_and_split
from .strategyqa import load_strategyqa
from .verify import load_verify

# What calibration asks in place of a question to find a lean without content (Zhao et al. 2021).
CONTENT_FREE = "builtin:content-free"
CONTENT_FREE_TEXTS = ("N/A", "[MASK]", "...", "None", "?")

KNOWN = (
    "builtin:verify#SPLIT, strategyqa:PATH, gsm8k:PATH, math:PATH, musique:PATH (#supporting, #all), ar_lsat:PATH, "
    "hub:ID#SPLIT, or a .jsonl/.csv file with the columns question and label"
)


def load_questions(
    data: str | Path, limit: int | None = None, seed: int = 0, unlabeled: bool = False, skip_bad: bool = False
) -> QuestionList:
    """Loads the questions that a data specification names.

    Args:
        data: `builtin:verify#probe` (or `#val`, `#test`); `strategyqa:PATH`, `gsm8k:PATH`, `math:PATH`,
            `musique:PATH` or `ar_lsat:PATH` in their authors' formats; `hub:ID#split`; or a `.jsonl`/`.csv` file, where
            `#split` keeps the rows with that `split`. A file whose own name holds '#' works too. Of short answers, the
            right one is proposed and a wrong one, which `#seed=3` draws anew: it is part of which data these are.
        limit: keep about this many, drawn by `seed` evenly from the groups, twins together (see `sample_questions`).
        seed: of that draw alone.
        unlabeled: leave the labels out, of all rows.
        skip_bad: leave out rows that can't be read; where False, the first of them is an error.

    Returns:
        The questions, which remember `data` as their name; ids are unique. `skipped` has the rows that gave none, each
        with its place and reason: bad ones, and those for whose answer no wrong candidate could be made. A warning
        says how many.

    Raises:
        QuestionError: for an unknown source or split, an empty file, a wrong row, doubled ids, a negative seed.
    """
    check_seed(seed)
    items = _items(str(data), unlabeled)
    name = items.name if isinstance(items, (QuestionList, NamedRows)) else str(data)
    questions, skipped = sort_items(items, skip_bad)
    if skipped and not questions:
        raise QuestionError(
            f"{name}: none of {len(skipped)} rows gave a question (the first: {': '.join(skipped[0])}); correct them"
        )
    questions = check_questions(questions, name)
    if unlabeled:
        questions = [replace(question, label=None) for question in questions]
    loaded = QuestionList(questions if limit is None else sample_questions(questions, limit, seed), name, skipped)
    for note in loaded.notes:
        warn_user(note)
    return loaded


def _items(data: str, unlabeled: bool) -> Sequence[Item]:
    """What the source of these data returns for their rows."""
    source, colon, rest = data.partition(":")
    if colon and source in SOURCES:
        try:
            return SOURCES[source](rest)
        except ValueError as error:
            raise QuestionError(f"{data}: {error}; correct what stands behind {source}:") from error
    path, split = path_and_split(data)
    if Path(path).suffix.lower() not in SUFFIXES:
        raise QuestionError(f"unknown data {data!r}; known: {KNOWN}")
    return load_file(path, split, unlabeled)


def _builtin(name: str) -> QuestionList:
    """The built-in set `verify`, whose splits share no questions; without a split, its test split."""
    name, _, split = name.partition("#")
    if f"builtin:{name}" == CONTENT_FREE:
        if split:
            raise QuestionError(f"{CONTENT_FREE} has no splits; leave #{split} out")
        texts = enumerate(CONTENT_FREE_TEXTS)
        return QuestionList([BinaryQuestion(text, None, f"free-{n}") for n, text in texts], CONTENT_FREE)
    if name != "verify":
        raise QuestionError(
            f"no built-in set {name!r}; there is builtin:verify, with #probe, #val and #test, and {CONTENT_FREE}"
        )
    return QuestionList(load_verify(split or "test"), f"builtin:verify#{split or 'test'}")


def _strategyqa(path: str) -> list[Item]:
    file, split = path_and_split(path)
    if split is not None:
        raise QuestionError(
            f"strategyqa:{path}: StrategyQA files have no splits inside; name the file of the split instead"
        )
    return load_strategyqa(file)


Source = Callable[[str], Sequence[Item]]
"""Takes the text after the source's name and the colon; a QuestionList or NamedRows keeps its own name.

Among the questions may stand rows that are bad (`BadRow`) or gave none (`Skipped`)."""

SOURCES: dict[str, Source] = {
    "builtin": _builtin,
    "strategyqa": _strategyqa,
    "gsm8k": load_gsm8k,
    "math": load_math,
    "musique": load_musique,
    "ar_lsat": load_ar_lsat,
    "hub": load_hub,
}
"""The names that may precede the colon of a data specification. To add a source, add an entry."""


def check_seed(seed: Any) -> None:
    """Raises QuestionError unless the seed is a whole number from 0 on: NumPy rejects -1, and Python reads it as 1."""
    if not isinstance(seed, Integral):
        raise QuestionError(f"seed {seed!r} is no whole number; give 0 or more")
    if seed < 0:
        raise QuestionError(f"seed {seed} is below 0; give 0 or more")


def check_questions(questions: Iterable[BinaryQuestion], data: str) -> list[BinaryQuestion]:
    """The questions as a list; raises QuestionError where there are none, or where two share an id."""
    questions = list(questions)
    if not questions:
        raise QuestionError(f"{data} holds no questions; name another file or split")
    identifier, count = Counter(q.id for q in questions).most_common(1)[0]
    if count > 1:
        raise QuestionError(f"{data}: {count} questions share the id {identifier!r}; give each its own")
    blank = [q.id for q in questions if q.label is None]
    check_labeled_alike(data, blank[0] if len(blank) < len(questions) and blank else None)
    pairs = Counter(q.pair for q in questions if q.pair is not None)
    pair, count = max(pairs.items(), key=lambda item: item[1], default=("", 0))
    if count > 2:
        raise QuestionError(
            f"{data}: {count} questions share the pair {pair!r}, where a pair is two with opposite labels; "
            f"correct the column, "
            f"or leave it empty where there is no twin"
        )
    return questions


def check_labeled_alike(data: str, blank: str | None) -> None:
    """Raises QuestionError where a question, by its id, has no label and others have one."""
    if blank is not None:
        raise QuestionError(
            f"{data}: question {blank!r} has no label, and others have one; give it one, drop it, or take all as "
            f"unlabeled (load_questions(..., unlabeled=True))"
        )


def sample_questions(questions: Sequence[BinaryQuestion], n: int, seed: int = 0) -> list[BinaryQuestion]:
    """About `n` of the questions, drawn evenly from the groups, with twins kept together, in their original order.

    Whole pairs are taken in turn from each group until `n` is reached, so one question more than `n` is possible.
    The labels of unpaired questions are left to chance: balancing them would change the base rate.
    """
    if n < 1:
        raise QuestionError(f"a limit of {n} leaves no questions; give 1 or more")
    units: dict[str, dict[str, list[int]]] = {}
    for index, q in enumerate(questions):
        units.setdefault(q.group, {}).setdefault(f"pair {q.pair}" if q.pair else f"id {q.id}", []).append(index)
    rng = random.Random(seed)
    piles = [rng.sample(list(group.values()), len(group)) for group in units.values()]
    chosen: list[int] = []
    while len(chosen) < n and any(piles):
        for pile in piles:
            if pile and len(chosen) < n:
                chosen.extend(pile.pop())
    return [questions[index] for index in sorted(chosen)]


def check_apart(seen: QuestionList, asked: QuestionList, use: str, other: str) -> None:
    """Raises QuestionError where a question is in both sets, by its text or by its twin.

    Args:
        seen: questions that something was made of; `use` says what, such as "to tune on".
        asked: questions that must be others; `other` says for what, such as "validate on".
    """
    twins, texts = {q.pair for q in seen if q.pair is not None}, {q.asked for q in seen}
    # A question that is asked with a context and without is one question; under two contexts it is two.
    closed, opened = {q.question for q in seen if q.context is None}, {q.question for q in seen if q.context}
    for q in asked:
        same = q.asked in texts or q.question in (opened if q.context is None else closed)
        if same or q.pair in twins:
            raise QuestionError(
                f"question {q.id!r} of {asked.name} (or its twin) is among those {use} ({seen.name}); "
                f"{other} other questions, such as another split"
            )


def check_labeled(questions: QuestionList, use: str) -> None:
    """Raises QuestionError where the right answers aren't known."""
    if any(q.label is None for q in questions):
        raise QuestionError(
            f"the questions to {use} ({questions.name}) have no labels, and it takes the right answers; add a column "
            f"'label', or use what needs none: `nasa-interp calibrate`, or tuning with the objective 'own'"
        )


def check_two_sided(questions: QuestionList, use: str) -> None:
    """Raises QuestionError where labels are missing, or all the same."""
    check_labeled(questions, use)
    if len({q.label for q in questions}) < 2:
        kind = "yes" if questions[0].label else "no"
        raise QuestionError(
            f"all {len(questions)} questions to {use} ({questions.name}) have the answer {kind}, so that always saying "
            f"{kind} would be best; add questions with the other answer"
        )
