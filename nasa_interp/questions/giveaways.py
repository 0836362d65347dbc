"""What an expression shows by its form alone: fractions to be reduced, roots to be taken, intervals that end too early.

No author leaves such a thing in an answer, so a candidate that has one is seen to be wrong without any mathematics.
"""

import re
from math import gcd, isqrt


def gives_itself_away(text: str, answer: str) -> bool:
    """Whether a candidate shows by its form that it is wrong, where the answer doesn't show that."""
    return any(fault(text) and not fault(answer) for fault in _FAULTS)


def _reducible(text: str) -> bool:
    fractions = _fractions(text) + re.findall(r"\\[dt]?frac\s*\{(\d+)\s*\\?[a-zA-Z][^{}]*\}\s*\{(\d+)\}", text)
    whole = re.search(r"\\[dt]?frac.*?\}\s*\{[01]\}", text) is not None
    return whole or any(int(c) < 2 or int(a) < 1 or gcd(int(a), int(c)) > 1 for a, c in fractions)


def _fractions(text: str) -> list[tuple[str, str]]:
    r"""Above and below of all fractions of two numbers, \frac43 and 4/3 among them."""
    found = re.findall(r"\\[dt]?frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))", text)
    return [(a or b, c or d) for a, b, c, d in found] + re.findall(r"(\d+)/(\d+)", text)


def _above_one(text: str) -> bool:
    """A fraction that is more than one, such as no probability is."""
    return any(int(above) > int(below) for above, below in _fractions(text))


def _wide_angle(text: str) -> bool:
    """An angle of 180 degrees or more."""
    return any(int(degrees) >= 180 for degrees in re.findall(r"(\d+)\s*\^\s*\{?\s*\\circ", text))


def _improper(text: str) -> bool:
    """A mixed number whose fraction is one or more."""
    found = re.search(r"\d\s*\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}", text)
    return found is not None and int(found[1]) >= int(found[2])


def _root_to_take(text: str) -> bool:
    roots = [int(r) for r in re.findall(r"\\sqrt\s*\{?(\d+)", text)]
    return any(r < 2 or any(r % (k * k) == 0 for k in range(2, isqrt(r) + 1)) for r in roots)


def _idle_factor(text: str) -> bool:
    return (
        re.search(r"(?<![\d.^_{])(?<![\d.])[01](?=\s*(?:\\(?:sqrt|pi|sin|cos|tan|cot)|[a-zA-Z(](?![a-z])))", text)
        is not None
    )


def _zero_term(text: str) -> bool:
    return re.search(r"[+-]\s*0(?![\d.])", text) is not None


def _turned(text: str) -> bool:
    """An interval, by its brackets or its sign, that ends at or before its beginning."""
    if not re.search(r"[\[(][^()\[\]]*\]|\[[^()\[\]]*[)\]]|\\infty|\\cup|\\in", text):
        return False
    ends = re.findall(r"[\[(]\s*(-?\d+)\s*,\s*(-?\d+)\s*[)\]]", text)
    flat = [int(end) for pair in ends for end in pair]
    return any(int(a) >= int(b) for a, b in ends) or flat != sorted(flat)


def _no_width(text: str) -> bool:
    """A pair in brackets whose two parts are one: an interval without width."""
    return re.search(r"[\[(]\s*([^,()\[\]]+?)\s*,\s*\1\s*[)\]]", text) is not None


def _repeats(text: str) -> bool:
    """A list of numbers in which one stands twice."""
    parts = [re.sub(r"\\[{}]|[{}\s]", "", part) for part in text.split(",")]
    return len(parts) > 1 and not re.search(r"[()\[\]]", text) and len(set(parts)) < len(parts)


_FAULTS = (
    _reducible,
    _above_one,
    _wide_angle,
    _improper,
    _root_to_take,
    _idle_factor,
    _zero_term,
    _turned,
    _no_width,
    _repeats,
)
