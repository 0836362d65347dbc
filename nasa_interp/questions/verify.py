"""The built-in question set `builtin:verify`: short yes-no questions as matched pairs, in 8 groups and 3 splits.

Twins share everything but the decisive part and have opposite labels, so every group is balanced, and no surface form
tells the label. The sentences, entities and numbers of a group belong to one split alone: what tuning learns by heart
on `probe` is of no use on `test`.

What the demo model (SmolLM2-135M-Instruct) can decide was measured on `probe` and `val`, which chose the wordings too;
`test` had no part in it. It says "No" to every question, yet its logit difference ranks the answers of four groups with
these AUCs (`probe`, `val`): with "Yes or No" sentiment .96, .93; stated_fact .95, .88; same_word .98, .94; presence
.91, .95; with "No or Yes" sentiment .76, .76; stated_fact .95, .90; same_word .97, .98; presence .85, .92. category
lies between (.82, .70 and .78, .69). sum and capital are chance (.48 to .58), and larger is chance or below it (.33 to
.47): there "No" is the shortcut of a model that doesn't know.

Wording decides much of this: a frame that stays the same from pair to pair ("There was ... Would you say there was
...?") keeps the questions' own offsets from hiding the answer. The set is ours; the paper has none like it.
"""

import csv
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import zip_longest
from random import Random

from ..errors import QuestionError
from .drawing import Item, pick, shuffled
from .question import BinaryQuestion

Pair = tuple[str, str]  # the text whose right answer is yes, the text whose right answer is no

SPLITS = ("probe", "val", "test")
SHARES = (6, 3, 5)  # of what is dealt out to the splits
PAIRS = {"probe": 60, "val": 30, "test": 50}  # in every group but stated_fact, which has as many as its table


def load_verify(split: str) -> list[BinaryQuestion]:
    """Load one split of the built-in set.

    Args:
        split: "probe", "val" or "test".

    Returns:
        The questions, twins side by side, one pair of each group in turn, so that a prefix is balanced too. Every call
        returns the same list.

    Raises:
        QuestionError: the split isn't one of the three.
    """
    if split not in SPLITS:
        raise QuestionError(f"builtin:verify has no split {split!r}; take one of {', '.join(SPLITS)}")
    by_group = [_questions(group, split) for group in GROUPS]
    return [question for round_ in zip_longest(*by_group) for twins in round_ if twins for question in twins]


def _questions(group: str, split: str) -> list[list[BinaryQuestion]]:
    """The pairs of one group and split as twins; the yes comes first in every other pair."""
    rng = Random(f"verify/{group}/{split}")
    pairs = shuffled(_GROUP_PAIRS[group](split, rng), rng)
    twins = []
    for index, (yes, no) in enumerate(pairs):
        pair = f"verify/{group}/{split}/{index:03d}"
        yes_twin = BinaryQuestion(yes, True, f"{pair}-yes", group, pair)
        no_twin = BinaryQuestion(no, False, f"{pair}-no", group, pair)
        twins.append([no_twin, yes_twin] if index % 2 else [yes_twin, no_twin])
    return twins


def _sentiment(split: str, rng: Random) -> list[Pair]:
    def ask(review: str) -> str:
        return f"{review} Would you say that the review is positive?"

    return [(ask(row["positive"]), ask(row["negative"])) for row in _table("reviews.tsv", split)]


def _stated_fact(split: str, rng: Random) -> list[Pair]:
    def ask(stated: str, asked: str) -> str:
        return f"{stated} Would you say {asked[0].lower()}{asked[1:-1]}?"

    # A fact and its contrary take turns in being stated: every question is right once and wrong once.
    rows = [(row["fact"], row["contrary"]) for row in _table("facts.tsv", split)]
    return [(ask(fact, fact), ask(fact, other)) for row in rows for fact, other in (row, row[::-1])]


def _same_word(split: str, rng: Random) -> list[Pair]:
    words = iter(shuffled(_share(_lines("words.txt"), split), rng))
    pairs = []
    for index in range(PAIRS[split]):
        word, other = next(words), next(words)
        first, second = (word, other) if index % 2 else (other, word)
        question = 'Is "the {}" the same as "the {}"?'
        pairs.append((question.format(word, word), question.format(first, second)))
    return pairs


def _category(split: str, rng: Random) -> list[Pair]:
    rows = _table("categories.tsv", split)
    pairs = []
    for row_index, row in enumerate(rows):
        for index, member in enumerate(row["members"].split()):
            # Round the other categories in turn, so that each is the wrong one as often as it is the right one.
            other = rows[(row_index + 1 + index % (len(rows) - 1)) % len(rows)]["category"]
            question = f"There was {_a(member)}. Would you say there was "
            pairs.append((f"{question}{_a(row['category'])}?", f"{question}{_a(other)}?"))
    return pairs


def _presence(split: str, rng: Random) -> list[Pair]:
    things = _share(_lines("things.txt"), split)
    pairs = []
    for index in range(PAIRS[split]):
        absent, *present = shuffled(things, rng)[:3]
        question = f"There was {_a(present[0])} and {_a(present[1])}. Would you say there was "
        pairs.append((f"{question}{_a(present[index % 2])}?", f"{question}{_a(absent)}?"))
    return pairs


def _sum(split: str, rng: Random) -> list[Pair]:
    numbers = _share(_numbers("sum"), split)
    pairs: dict[tuple[int, int], Pair] = {}
    while len(pairs) < PAIRS[split]:
        left, right = pick(numbers, rng), pick(numbers, rng)
        total = left + right
        near = [number for number in numbers if 0 < abs(number - total) <= 20]
        if total not in numbers or not near:
            continue
        question = "Is {0} plus {1} equal to {2}?" if len(pairs) % 2 else "Is {2} equal to {0} plus {1}?"
        wrong = pick(near, rng)
        pairs[left, right] = question.format(left, right, total), question.format(left, right, wrong)
    return list(pairs.values())


def _capital(split: str, rng: Random) -> list[Pair]:
    rows = shuffled(_share(_table("capitals.tsv"), split), rng)[: PAIRS[split]]
    # Each city is asked of its own country and of the next one's: every country is right once and wrong once.
    pairs = []
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        question = f"Is {row['capital']} the capital of "
        pairs.append((f"{question}{row['country']}?", f"{question}{other['country']}?"))
    return pairs


def _larger(split: str, rng: Random) -> list[Pair]:
    numbers = iter(shuffled(_share(_numbers("larger"), split), rng))
    pairs = []
    for _ in range(PAIRS[split]):
        low, high = sorted((next(numbers), next(numbers)))
        pairs.append((f"Is {high} larger than {low}?", f"Is {low} larger than {high}?"))
    return pairs


_GROUP_PAIRS: dict[str, Callable[[str, Random], list[Pair]]] = {
    "sentiment": _sentiment,
    "stated_fact": _stated_fact,
    "same_word": _same_word,
    "category": _category,
    "presence": _presence,
    "sum": _sum,
    "capital": _capital,
    "larger": _larger,
}
GROUPS = tuple(_GROUP_PAIRS)


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _lines(name: str) -> list[str]:
    return (resources.files("nasa_interp.questions") / "data" / name).read_text(encoding="ascii").splitlines()


def _table(name: str, split: str | None = None) -> list[dict[str, str]]:
    rows = csv.DictReader(_lines(name), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [row for row in rows if split is None or row["split"] == split]


def _numbers(group: str) -> list[int]:
    """The numbers of `sum` (two thirds, since its results must be among them) or of `larger`: none is in both."""
    numbers = shuffled(range(2, 1000), Random("verify/numbers"))
    return numbers[:660] if group == "sum" else numbers[660:]


def _share(items: Sequence[Item], split: str) -> list[Item]:
    """The items that belong to this split: all are dealt out once, in the proportion of SHARES."""
    dealt, index = shuffled(items, Random("verify/shares")), SPLITS.index(split)
    start, end = (len(items) * sum(SHARES[:cut]) // sum(SHARES) for cut in (index, index + 1))
    return dealt[start:end]
