"""Numbers as answers: what they are worth however they are written, and plausible wrong ones."""

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from random import Random

from .drawing import shuffled
from .short import Candidate

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"(?P<sign>[-+\u2212]?)\s*[$£€]?\s*(?P<number>{_DIGITS})")
_FRACTION = re.compile(rf"{_NUMBER.pattern}\s*/\s*(?P<below>\d+)(?![\d/.])")
_MIXED = re.compile(r"(?P<sign>[-+\u2212]?)\s*(?P<whole>\d+)\s+(?P<above>\d+)\s*/\s*(?P<below>\d+)(?![\d/.])")
_LATEX = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")


def number_of(text: str) -> Fraction | None:
    """What a text with one number in it is worth, exactly; None where it has none or several.

    Thousands are separated by commas; currency signs and units don't count. "1 1/2" and "\\frac{3}{2}" are read, too.
    """
    text = _LATEX.sub(r" \1/\2", text).replace("\\", "")
    for pattern in (_MIXED, _FRACTION, _NUMBER):
        if (found := pattern.search(text)) is not None:
            rest = text[: found.start()] + text[found.end() :]
            return None if re.search(r"\d", rest) else _worth(found)
    return None


def _worth(found: re.Match[str]) -> Fraction | None:
    parts = {name: value for name, value in found.groupdict().items() if value}
    below = int(parts.get("below", 1))
    if below == 0 or max(map(len, parts.values())) > 400:
        return None
    if "whole" in parts:
        size = int(parts["whole"]) + Fraction(int(parts["above"]), below)
    else:
        size = Fraction(parts["number"].replace(",", "")) / below
    return -size if parts.get("sign") in ("-", "\u2212") else size


def same_number(first: str, second: str) -> bool:
    """Whether two texts name the same number: 1,000 = 1000 = 1000.0 = $1000; 50% = 50 = 0.5 where one has the sign.

    Where either isn't one number, the texts are compared, without case and space.

    Caveat: units are left out of account, so that "3 km" is "3 m": too much is taken for right rather than too little.
    """
    one, other = number_of(first), number_of(second)
    if one is None or other is None:
        return _bare(first) == _bare(second)
    if _is_percent(first) != _is_percent(second):
        percent, plain = (one, other) if _is_percent(first) else (other, one)
        return plain in (percent, percent / 100)
    return one == other


def _bare(text: str) -> str:
    return "".join(text.split()).casefold()


def _is_percent(text: str) -> bool:
    return "%" in text or "percent" in text.casefold()


def wrong_numbers(answer: str, rng: Random, results: Iterable[str] = ()) -> Iterator[Candidate]:
    """Numbers near to an answer, written as it is, the rules in a drawn order.

    Args:
        answer: a text with one number in it; what stands around the number stays.
        rng: draws.
        results: other numbers that came up on the way to the answer.

    Returns:
        Candidates made by "intermediate" (one of the results), "off by one" (in the last digit that isn't a trailing
        zero: 70,000 becomes 60,000) and "digit" (another digit there or before).
    """
    found = re.search(_DIGITS, answer)
    if found is None:
        return
    number, comma = found[0], "," in found[0]
    for rule in shuffled(("intermediate", "off by one", "digit"), rng):
        for changed in _RULES[rule](number, rng, tuple(results)):
            digits = _grouped(changed) if comma else changed
            yield Candidate(answer[: found.start()] + digits + answer[found.end() :], rule)


def _grouped(digits: str) -> str:
    whole, point, rest = digits.replace(",", "").partition(".")
    return f"{int(whole or 0):,}{point}{rest}"


def _intermediate(number: str, rng: Random, results: tuple[str, ...]) -> Iterator[str]:
    decimals = len(number.replace(",", "").partition(".")[2])
    for result in shuffled(dict.fromkeys(results), rng):
        result = result.replace(",", "")
        if re.fullmatch(r"\d+(\.0*)?", result) and not decimals:
            result = result.partition(".")[0]
        # A result that is far from the answer is easily seen to be no answer; so is one with other decimals.
        alike = re.fullmatch(r"\d+(\.\d+)?", result) and len(result.partition(".")[2]) == decimals
        if alike and Fraction(result) and abs(len(result) - len(number.replace(",", ""))) <= 1:
            yield result


def _significant(number: str) -> list[int]:
    """Where digits stand that aren't trailing zeros, or commas."""
    kept = number if "." in number else number.rstrip("0,") or "0"
    places = [i for i, sign in enumerate(kept) if sign.isdigit()]
    if "." in number:
        first = next((i for i in places if number[i] != "0"), len(number) - 1)
        places = [i for i in places if i >= first]
    return places


def _off_by_one(number: str, rng: Random, results: tuple[str, ...]) -> Iterator[str]:
    whole, _, decimals = number.replace(",", "").partition(".")
    digits = whole + decimals
    zeros = 0 if decimals else len(digits) - len(digits.rstrip("0")) if int(digits) else 0
    for step in shuffled((1, -1), rng):
        value = int(digits) + step * 10**zeros
        if value > 0:
            yield _with_point(str(value).zfill(len(digits)) if decimals else str(value), len(decimals), whole)


def _with_point(digits: str, decimals: int, whole: str) -> str:
    if not decimals:
        return digits
    return f"{digits[:-decimals] if whole else ''}.{digits[-decimals:]}"


def _digit(number: str, rng: Random, results: tuple[str, ...]) -> Iterator[str]:
    first = next((i for i, sign in enumerate(number) if sign.isdigit()), 0)
    for place in shuffled(_significant(number), rng):
        at_end = place in (first, len(number) - 1)
        # A leading digit stays near, so that the size alone doesn't tell.
        reach = 3 if place == first else 9
        near = [d for d in "0123456789" if 0 < abs(int(d) - int(number[place])) <= reach]
        for digit in shuffled([d for d in near if d != "0" or not at_end], rng):
            yield number[:place] + digit + number[place + 1 :]


_RULES = {"intermediate": _intermediate, "off by one": _off_by_one, "digit": _digit}
