"""Forms: named styles of prompts, built in or from a file, so that one can ask whether a bias belongs to the form."""

import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..errors import PromptError
from ..questions import BinaryQuestion
from ..questions.resolve import resolve_questions
from .style import ORDERS, PromptStyle

MEANING = "You are given a question and you MUST answer {first} if {first_means}, or {second} if {second_means}."
RIGHT, WRONG = "its right answer is positive", "its right answer is negative"
EXAMPLES = "builtin:verify#probe"

FORMS: dict[str, PromptStyle] = {
    "yes-no": PromptStyle(),
    "true-false": PromptStyle(yes="True", no="False"),
    "correct-incorrect": PromptStyle(yes="Correct", no="Incorrect"),
    "meaning": PromptStyle(MEANING, yes_means=RIGHT, no_means=WRONG),
    "reversed": PromptStyle(MEANING, yes_means=WRONG, no_means=RIGHT, reversed=True),
    "after": PromptStyle(after=True),
    "unsure": PromptStyle(
        "You are given a question and you MUST answer {first}, {second} or {unsure}.", unsure="I don't know"
    ),
    "think": PromptStyle(
        "You are given a question. Think step by step, and then you MUST answer {first} or {second}.", think=96
    ),
    "plain": PromptStyle(kind="plain"),
    "system": PromptStyle(system="You are a careful assistant. You know that what you are asked is often true."),
}
"""Forms by name; "few-shot" is made by `load_form`, as its examples are drawn. To add a form, add a line."""

FEW_SHOT = "few-shot"
FORM_NAMES = (*FORMS, FEW_SHOT)


def load_form(form: str | Path | PromptStyle, seed: int = 0) -> PromptStyle:
    """A form by its name, or from the user's TOML file.

    A file names the fields of `PromptStyle`, and what examples are drawn from:

        instruction = "Is it so? Say {first} or {second}."
        yes = "True"
        no = "False"

        [examples]
        data = "builtin:verify#probe"
        n = 4

    Args:
        form: one of `FORM_NAMES`, or the path of a `.toml` file; a style is returned as it is.
        seed: of the examples, where they are drawn.

    Raises:
        PromptError: an unknown name, a file that is no TOML, a field that styles don't have or of another type.
    """
    if isinstance(form, PromptStyle):
        return form
    if str(form) in FORMS:
        return FORMS[str(form)]
    if str(form) == FEW_SHOT:
        return with_examples(PromptStyle(), EXAMPLES, 4, seed)
    if Path(form).suffix.lower() != ".toml":
        raise PromptError(f"no form is called {str(form)!r}; there are {', '.join(FORM_NAMES)}, or give a .toml file")
    try:
        content = tomllib.loads(Path(form).read_text(encoding="utf-8"))
    except OSError as error:
        raise PromptError(f"the form {form} can't be read ({error.strerror}); check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PromptError(f"the form {form} is no TOML ({error}); correct it there") from error
    return _from_content(content, str(form), seed)


def with_examples(style: PromptStyle, data: Any, n: int, seed: int = 0) -> PromptStyle:
    """The style with so many answered examples, as many of either label, which take turns.

    Args:
        style: any.
        data: questions with labels, or a data specification; ask others than these.
        n: an even number.
        seed: of the draw, evenly from the groups.

    Raises:
        PromptError: an odd number, or too few questions of a label.
    """
    if n < 2 or n % 2:
        raise PromptError(f"{n} examples can't be as many of either answer; give an even number, 2 or more")
    questions, rng = resolve_questions(data), random.Random(seed)
    sides = [_drawn([q for q in questions if q.label is label], n // 2, rng) for label in (True, False)]
    if short := [label for label, side in zip(("yes", "no"), sides, strict=True) if len(side) < n // 2]:
        raise PromptError(f"{questions.name} has fewer than {n // 2} questions whose answer is {short[0]}; give more")
    return replace(style, examples=tuple(example for pair in zip(*sides, strict=True) for example in pair))


def _drawn(questions: Sequence[BinaryQuestion], n: int, rng: random.Random) -> list[BinaryQuestion]:
    """So many of them, of one group after another."""
    piles: dict[str, list[BinaryQuestion]] = {}
    for question in rng.sample(list(questions), len(questions)):
        piles.setdefault(question.group, []).append(question)
    groups = rng.sample(list(piles), len(piles))
    taken = [question for turn in range(n) for group in groups for question in piles[group][turn : turn + 1]]
    return taken[:n]


def _from_content(content: Mapping[str, Any], path: str, seed: int) -> PromptStyle:
    """The style that a file describes; every complaint names the file and the field."""
    known = {field.name for field in fields(PromptStyle)}
    if unknown := [name for name in content if name not in known]:
        raise PromptError(f"the form {path} has a field {unknown[0]!r}; forms have {', '.join(sorted(known))}")
    examples = content.get("examples", {})
    if not isinstance(examples, dict) or set(examples) - {"data", "n", "seed"}:
        raise PromptError(f"the form {path}: [examples] takes data, n and seed; write them there")
    default = PromptStyle()
    for name, value in content.items():
        expected = str if name in ("unsure", "system") else type(getattr(default, name))
        several = name == "instruction" and isinstance(value, list) and all(isinstance(text, str) for text in value)
        if name != "examples" and type(value) is not expected and not several:
            raise PromptError(f"the form {path}: {name} is {value!r}; give a {expected.__name__}")
    try:
        style = PromptStyle(**{name: value for name, value in content.items() if name != "examples"})
        for order in ORDERS:
            style.render_instructions(order)
    except PromptError as error:
        raise PromptError(f"the form {path}: {error}") from error
    if not examples:
        return style
    return with_examples(style, examples.get("data", EXAMPLES), examples.get("n", 4), examples.get("seed", seed))
