r"""Mathematical expressions as answers: whether two are equal, and wrong ones of the same form.

Equality is math-verify's, in either direction. It drops units and bases, so that too much is taken for equal rather
than too little, and no candidate is right by accident.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any

from .drawing import pick, shuffled
from .giveaways import gives_itself_away
from .numbers import wrong_numbers
from .short import Candidate

LONGEST = 200  # characters; the longest answer of MATH-500 has 60
# What would take for ever to be worked out: towers of powers, large factorials, sums and integrals.
_TOWER = re.compile(r"\\(?:int|sum|prod|lim|binom)(?![a-z])|\^\s*\{?\s*-?\d{4,}|\^[^+\-,=]*\^|!\s*!|\d{4,}\s*!")
_TRIES = 40

# Words that stand for each other; the first list that holds a word counts.
_WORDS = (
    ("north", "south", "east", "west"),
    ("even", "odd", "neither"),
    ("ellipse", "parabola", "hyperbola", "circle", "line"),
    ("increasing", "decreasing"),
    ("yes", "no"),
    ("true", "false"),
    ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november"),
    ("red", "blue", "green", "yellow"),
    ("one", "two", "three", "four", "five", "six"),
)
_FUNCTIONS = (r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc")
_TEXT = re.compile(r"\\(?:text|mbox|textbf|mathrm|textit)\s*\{([^{}]*)\}")
_TOKEN = re.compile(
    r"(?P<text>\\(?:text|mbox|textbf|mathrm|textit)\s*\{[^{}]*\}(?:\s*\^\s*(?:\{[^{}]*\}|\\?\w))?)"
    r"|(?P<base>_\s*(?:\{[^{}]*\}|\d+))"
    r"|(?P<power>\^\s*(?:\{\s*-?\d+\s*\}|\d))"
    r"|(?P<command>\\[a-zA-Z]+)"
    r"|(?P<number>\d{1,3}(?:(?:,\\!\s?|\\,|\{,\}|,)\d{3})+(?!\d)|\d*\.\d+|\d+)"
)


@functools.cache
def _library() -> tuple[Any, Any, Any]:
    """math-verify's two verbs and how to read LaTeX; loaded on first use, as SymPy takes its time."""
    from math_verify import LatexExtractionConfig, parse, verify

    for name in ("math_verify.parser", "math_verify.grader"):
        # It warns wherever it runs without a timeout, which needs signals and so the main thread.
        logging.getLogger(name).addFilter(lambda record: "Timeout is disabled" not in record.getMessage())
    return parse, verify, (LatexExtractionConfig(boxed_match_priority=0),)


def comparer(answer: str) -> Callable[[str], bool]:
    """Whether a text says the same as this answer, which is parsed once, when it is first asked."""

    @functools.cache
    def gold() -> Any:
        return _parsed(answer)

    def same(text: str) -> bool:
        if _bare(text) == _bare(answer):
            return True
        if _too_large(text) or _too_large(answer):
            return False
        _, verify, _ = _library()
        target = _parsed(text)
        return any(verify(*pair, timeout_seconds=None) for pair in ((gold(), target), (target, gold())))

    return same


def same_expression(first: str, second: str) -> bool:
    """Whether two LaTeX texts are equal by math-verify, read either way round; texts alike but for space are.

    Those over `LONGEST` characters, or with powers that can't be multiplied out, are compared as texts alone.
    """
    return comparer(first)(second)


def _parsed(text: str) -> Any:
    parse, _, config = _library()
    return parse(rf"\boxed{{{text}}}", extraction_config=config, parsing_timeout=None)


def _too_large(text: str) -> bool:
    return len(text) > LONGEST or _TOWER.search(text) is not None


def _bare(text: str) -> str:
    return re.sub(r"\\[!,; ]|\\left|\\right|\s", "", text)


def last_boxed(solution: str) -> str | None:
    r"""What stands in a solution's last `\boxed{...}`, braces nested; None where none opens, or it doesn't close."""
    start = max(solution.rfind(r"\boxed{"), solution.rfind(r"\fbox{"))
    if start < 0:
        bare = re.findall(r"\\boxed\s+(\S+?)(?=[.,$]|\s|$)", solution)
        return bare[-1] if bare else None
    begin = solution.index("{", start) + 1
    depth = 1
    for found in re.finditer(r"\\.|[{}]", solution[begin:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return solution[begin : begin + found.start()]
    return None


def wrong_expressions(answer: str, rng: Random, names: tuple[str, ...] = ()) -> Iterator[Candidate]:
    """Expressions of the same form: a number, a sign, a function or a word inside is another one.

    Args:
        answer: LaTeX.
        rng: draws.
        names: what may stand in place of a name, such as others in the problem.

    Returns:
        Candidates, each by the first rule that has some: those that would give themselves away (fractions that can be
        reduced, a coefficient 1, an interval that ends before it begins) are left out.
    """
    if _too_large(answer):
        return
    rules = shuffled((_numbers, _signs), rng)
    for rule in (*rules, _functions, _words, lambda a, r: _names(a, r, names), _symbols, _powers):
        for candidate in islice(rule(answer, rng), _TRIES):
            if candidate.answer != answer and not gives_itself_away(candidate.answer, answer):
                yield candidate


def _numbers(answer: str, rng: Random) -> Iterator[Candidate]:
    """One number changed, but for bases, powers and what stands in units."""
    for start, end in shuffled(list(_number_places(answer)), rng):
        token = answer[start:end]
        plain = re.sub(r"\\!\s?|\\,|\{,\}|\s", "", token).replace(",", "")
        digits = _base_of(answer[end:])
        for candidate in islice(wrong_numbers(plain, rng), 12):
            # The point of .5 and the commas of 10,\!080 stay.
            written = _spelled(candidate.answer, token)
            if written is None or (digits and any(int(d) >= digits for d in candidate.answer)):
                continue
            yield Candidate(_replaced(answer, (start, end), written), candidate.made)


def _number_places(answer: str) -> Iterator[tuple[int, int]]:
    for found in _TOKEN.finditer(answer):
        if found.lastgroup != "number":
            continue
        start, end = found.span()
        # \frac43 is 4 over 3.
        if re.search(r"\\[dt]?frac\s*$", answer[:start]) and end - start == 2:
            yield start, start + 1
            yield start + 1, end
        elif re.search(r"\\sqrt\s*$", answer[:start]) and end - start > 1:
            yield start, start + 1
        else:
            yield start, end


def _base_of(rest: str) -> int:
    """The base of a number that is followed by this; 0 where there is none."""
    found = re.match(r"\s*_\s*\{?\s*(\d+)", rest)
    return int(found[1]) if found else 0


def _spelled(number: str, token: str) -> str | None:
    """A number written as the token is."""
    if number.isdigit() and token.isdigit():
        return number
    places = [i for i, sign in enumerate(token) if sign.isdigit()]
    digits = number.replace(".", "")
    if len(digits) != len(places):
        return None
    signs = list(token)
    for place, digit in zip(places, digits, strict=True):
        signs[place] = digit
    return "".join(signs)


def _replaced(answer: str, place: tuple[int, int], written: str) -> str:
    """The answer with another number at this place; under roots, where the same number is, too."""
    (start, end), old = place, answer[slice(*place)]
    if re.search(r"\\sqrt\s*\{$", answer[:start]):
        return re.sub(rf"(\\sqrt\s*\{{){re.escape(old)}(?=\}})", lambda found: found[1] + written, answer)
    return answer[:start] + written + answer[end:]


def _signs(answer: str, rng: Random) -> Iterator[Candidate]:
    """Plus for minus or minus for plus, also at the beginning of a part that is negative."""
    bare = _TEXT.sub(lambda found: "~" * len(found[0]), answer)
    bare = re.sub(r"\\begin\{\w+\}", lambda found: "&" * len(found[0]), bare)
    between = [m.start() for m in re.finditer(r"(?<=[\w})\]])\s*[+-](?=\s*[\w\\(])", bare)]
    for start in shuffled(between, rng):
        place = start + len(answer[start:]) - len(answer[start:].lstrip())
        yield Candidate(answer[:place] + ("-" if answer[place] == "+" else "+") + answer[place + 1 :], "sign")
    leading = [
        m.start() for m in re.finditer(r"(?:(?<=^)|(?<=[(,\[{&=])|(?<=\\\\))\s*-(?!\s*\\infty)(?=\s*[\w\\(.])", bare)
    ]
    for start in shuffled(leading, rng):
        place = start + len(answer[start:]) - len(answer[start:].lstrip())
        yield Candidate(answer[:place] + answer[place + 1 :], "sign")


def _functions(answer: str, rng: Random) -> Iterator[Candidate]:
    for found in re.finditer(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])", answer):
        for other in shuffled([f for f in _FUNCTIONS if f != found[0]], rng):
            yield Candidate(answer[: found.start()] + other + answer[found.end() :], "function")


def _words(answer: str, rng: Random) -> Iterator[Candidate]:
    """Another option's letter, or a word that stands for the answer's opposite or neighbour."""
    text = _TEXT.search(answer)
    start, end = text.span(1) if text else (0, len(answer))
    word = answer[start:end].strip()
    if found := re.fullmatch(r"(\(?)([A-E])(\)?)", word):
        for letter in shuffled([c for c in "ABCDE" if c != found[2]], rng):
            yield Candidate(answer[:start] + found[1] + letter + found[3] + answer[end:], "option")
    for others in _WORDS:
        if word.casefold() in others:
            for other in shuffled([o for o in others if o != word.casefold()], rng):
                yield Candidate(
                    answer[:start] + (other.capitalize() if word[0].isupper() else other) + answer[end:], "word"
                )


def _names(answer: str, rng: Random, names: tuple[str, ...]) -> Iterator[Candidate]:
    text = _TEXT.fullmatch(answer.strip())
    word = text[1].strip() if text else answer.strip()
    if re.fullmatch(r"[A-Z][a-z]+", word):
        for other in shuffled([name for name in names if name != word], rng):
            yield Candidate(answer.replace(word, other), "name")


def _symbols(answer: str, rng: Random) -> Iterator[Candidate]:
    """An expression without a number or a sign gets a factor: \\pi becomes 2\\pi."""
    if re.fullmatch(r"-?(?:\\[a-z]+|[a-zA-Z])(?:\s*[a-z])?", answer) and not _TEXT.search(answer):
        minus = answer.startswith("-")
        yield Candidate(f"{'-' * minus}{pick('234', rng)}{answer[minus:]}", "factor")


def _powers(answer: str, rng: Random) -> Iterator[Candidate]:
    for found in shuffled(list(re.finditer(r"(?<=\^)(\{?)(\d+)(\}?)", answer)), rng):
        for step in shuffled((1, -1), rng):
            power = int(found[2]) + step
            if power > 1:
                yield Candidate(answer[: found.start(2)] + str(power) + answer[found.end(2) :], "power")
