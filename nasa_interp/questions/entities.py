"""Names in paragraphs, and what they name, by simple rules: the name's own words, what its paragraph calls it ("was an
American actor"), the words before it. Where rules are unsure, names that they are sure of come first.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from random import Random

from .drawing import shuffled

_WORD = r"(?:[A-Z]\.(?:[A-Z]\.)*|[A-Z][\w\u2019'&-]*\w|[A-Z])"
NAME = re.compile(
    rf"{_WORD}(?:(?: (?:of|of the|the|de|von|van|der|del|la|al|bin) | ){_WORD})*(?:, (?:Jr\.|Sr\.|1st|2nd)[\w ]*)?"
)
"""A run of capitalized words."""

# Words that say what is named, by family; the families of one broad kind stand in for each other where need be.
_FAMILIES = {
    "area/settlement": """city town village municipality township suburb commune hamlet settlement neighborhood
        community borough capital place""",
    "area/division": """county province district state states republic kingdom region territory prefecture canton
        parish country governorate""",
    "water/water": "river lake bay sea ocean gulf strait creek harbour harbor canal",
    "land/land": "island islands mountain mountains peninsula valley desert continent archipelago mount",
    "structure/structure": """park bridge castle palace cathedral church building stadium airport hospital museum
        street arena tower house lodge mansion""",
    "body/school": "university college school institute academy gymnasium",
    "body/company": """company corporation inc records group label airline studio publisher pictures entertainment
        productions media bank network manufacturer""",
    "body/team": "team club fc",
    "body/league": "league conference association federation",
    "body/party": "party",
    "body/other": """army organization organisation agency ministry department board committee corps foundation band duo
        orchestra newspaper society union""",
    "work/work": """film album song novel series book episode game musical magazine opera poem soundtrack sitcom
        documentary show manga comic painting sculpture""",
    "person/person": """actor actress singer politician player writer author king queen musician rapper composer
        director poet president leader captain minister scientist physicist footballer artist painter emperor empress
        prince princess duke bishop pope general officer journalist lawyer businessman businesswoman entrepreneur
        comedian model producer songwriter historian philosopher mathematician engineer architect novelist nobleman
        statesman explorer saint screenwriter coach driver wrestler boxer swimmer economist theologian monk judge
        diplomat ruler sultan baronet guitarist pianist inventor professor activist socialite dancer filmmaker soldier
        wife daughter son brother sister cricketer athlete""",
}
_FAMILY_OF = {word: family for family, words in _FAMILIES.items() for word in words.split()}
_OWN = {word: family for word, family in _FAMILY_OF.items() if not family.startswith(("person", "work"))}
_CUES = (
    ("person/person", r"performer|creator|founded by|ceo|character|head of|author|director|composer"),
    ("area/settlement", r"place of|\bwhere\b|headquarters|born in"),
    ("area/division", r"administrative|border"),
    ("body/school", r"educated|attend|employer"),
    ("body/company", r"owner|owned|distribut|broadcast|record label"),
    ("water/water", r"flow|tributary|mouth of"),
)  # fmt: skip
_PERSON = r"\b(?:who|hosts?|spouse|father|mother|child|sibling|son|daughter|wife|husband|brother|sister)\b"
_SMALL = """
    The A An In On At It He She They This That These Those After Before During When While As By For From With
    And But Or If However Although Since There Its His Her Their Also Both One Two Three First Some Many Most
    Other Another January February March April May June July August September October November December Monday
    Tuesday Wednesday Thursday Friday Saturday Sunday American British English French German Italian Spanish
    Indian Chinese Japanese Canadian Australian European Jr Sr I II III IV V Following According Because Under
    Over Until Upon Within Between Born Inc All Not
"""
_NO_NAME = set(_SMALL.split())
_OF_PLACES = {"New", "North", "South", "East", "West", "San", "Los", "Saint", "St", "United", "Great", "Northern",
              "Southern", "Eastern", "Western", "Central", "Upper", "Lower", "Fort", "Port"}  # fmt: skip
_BEHIND = re.compile(r"\b(?:of|in|from|who|which|that|located|on|at|by|for|near|to|where|with)\b|[,.(;]")
_NOT_PEOPLE = {"Conservative", "Liberal", "Democratic", "Republican", "Labour", "National", "Royal", "World", "War",
               "Award", "Awards", "Prize", "Festival", "Olympic", "Games", "Cup", "Championship", "Series"}  # fmt: skip
_SPAN = r"\([^()]*(?:\bborn\b|\d{3,4}\s*[\u2013-]\s*[^()]*\d{3,4})[^()]*\)"


@dataclass(frozen=True)
class Passage:
    """A paragraph with its title."""

    title: str
    text: str

    @property
    def name(self) -> str:
        """The title without what stands in brackets behind it."""
        return re.sub(r"\s*\([^)]*\)\s*$", "", self.title).strip()

    @cached_property
    def family(self) -> str:
        """What the paragraph is about, by its first sentence ("was an American actor") and its title; "" if unsure."""
        is_a = re.search(r"\b(?:is|was|are|were)\b(?: \w+)? (?:an?|the|one of)\b(.*)", self.text[:300])
        words = re.findall(r"[a-z]+", _BEHIND.split(is_a[1] if is_a else "")[0].lower())
        heads = [*words[-1:], *(word for word, following in pairwise(words) if following == "and")]
        said = next((_FAMILY_OF[word] for word in heads if word in _FAMILY_OF), "")
        person = said.startswith("person") or re.search(_SPAN, self.text[: len(self.title) + 100]) is not None
        if person and not said.startswith(("body", "work")):
            return "person/person" if _may_be_person(self.name) else ""
        return _own_family(self.name) or said


def _may_be_person(name: str) -> bool:
    words = name.split()
    return not re.search(r"\d|\b(?:of|the|and|in|List)\b", name) and len(words) <= 4 and not _NOT_PEOPLE & set(words)


def _own_family(name: str) -> str:
    """What a name says of itself: Canyon County, University of Chicago, Lake Erie."""
    words = re.findall(r"\w+", name.lower())
    if len(words) < 2:
        return ""
    first = words[0] if words[1] == "of" or words[0] in ("lake", "mount") else ""
    inner = words[words.index("of") - 1] if "of" in words[1:] else ""  # National Institute of Dramatic Art
    return _OWN.get(words[-1]) or _OWN.get(first) or _OWN.get(inner) or ""


def is_name(text: str) -> bool:
    """Whether a text is a name: most of its words are capitalized, the first among them."""
    words = re.findall(r"[^\W\d_][\w'\u2019.-]*", re.sub(r"^(?:the|al-|de|von|van)\s?", "", text))
    capital = [word for word in words if word[0].isupper()]
    return bool(words) and words[0][0].isupper() and 2 * len(capital) >= len(words)


def family_of(name: str, asked: str, passages: Sequence[Passage]) -> str:
    """What a name names: "water/water", "person/person", ...; "" where nothing tells.

    Args:
        name: the name.
        asked: the words that ask for it, or that stand before it.
        passages: one of which may be about it.
    """
    about = next((p.family for p in passages if p.family and p.name.casefold() == name.casefold()), "")
    if re.search(_PERSON, asked.lower()):
        return about or _own_family(name) or "person/person"
    nouns = [_FAMILY_OF[word] for word in re.findall(r"[a-z]+", asked.lower()) if word in _FAMILY_OF]
    noun = next((family for family in nouns if not family.startswith("person")), "")
    cued = next((family for family, cue in _CUES if re.search(cue, asked.lower())), "")
    return about or noun or _own_family(name) or cued or next(iter(nouns), "")


def named(
    name: str,
    asked: str,
    passages: Sequence[Passage],
    others: Sequence[tuple[str, str]],
    rng: Random,
    sure: bool = False,
) -> list[str]:
    """Other names of what this one names, the surest first, drawn within one degree of sureness.

    Args:
        name: the name.
        asked: the words that ask for it, or that stand before it.
        passages: where names are looked for, those that matter first.
        others: answers to other parts of the question, each with the words that ask for it.
        rng: draws.
        sure: only those of the same family.

    Returns:
        Names that end alike (Canyon County, Ada County); those of paragraphs about the same; those in the text that
        their own words or the words before them tell; the same for the broad kind (a city for a county); at last those
        that end in the same word, or are as long and stand beside it.
    """
    family = family_of(name, asked, passages)
    broad, last = family.partition("/")[0], name.split()[-1].lower()
    titles = [(_short(p.name, name), p.family) for p in passages if _is_title_a_name(p.name)]
    if broad != "area":  # Where the answer lies in it, an area is half right.
        titles += [(other, family_of(other, its, passages)) for other, its in others if is_name(other)]
    said = _said(passages)
    alike = [n for n, _ in (*said, *titles) if last in _OWN and n.split()[-1].lower() == last and len(n.split()) > 1]
    tiers = [alike, _of(family, titles), _of(family, said)]
    if not sure:
        beside = {n for p in passages if name in p.text for n, _ in _in_texts([p])}
        tiers += [_of(broad, titles), _of(broad, said), _as_long(name, [n for n, kind in said if not kind], beside)]
    ordered = [n for tier in tiers for n in shuffled(dict.fromkeys(tier), rng)]
    if broad != "person":
        return ordered
    least = min(2, len(name.split()))
    return [n for n in ordered if len(n.split()) >= least and _may_be_person(n)]


def _of(family: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The names of a family, or of all families of a broad kind."""
    return [name for name, own in pairs if family and own.startswith(family)]


def _said(passages: Sequence[Passage]) -> list[tuple[str, str]]:
    """The names in all texts with what they name; who is called something else anywhere is no person."""
    said = [(name, _told(name, before)) for name, before in _in_texts(passages)]
    not_people = {name for name, family in said if not family.startswith("person")}
    return [(name, family) for name, family in said if not family.startswith("person") or name not in not_people]


def _is_title_a_name(title: str) -> bool:
    """No headline ("List of ..."), call sign, title with a number, or a long one."""
    plain = re.match(r"(?!List |History |States )[A-Z][^\d:]*$", title) is not None
    return plain and not title.isupper() and len(title.split()) < 7


def _short(title: str, name: str) -> str:
    """A title as the name is written: without ", Oklahoma" where that has none."""
    return title if "," in name else title.partition(",")[0]


def _as_long(name: str, names: Sequence[str], beside: Collection[str]) -> list[str]:
    """Names that share the last word with this one; else those of as many words that stand in the same paragraph."""
    words = name.split()
    alike = [n for n in names if n.split()[-1] == words[-1] and n != name]
    return alike or [n for n in names if len(n.split()) == len(words) and n in beside]


def _in_texts(passages: Sequence[Passage]) -> list[tuple[str, str]]:
    """The names in all texts, each with the word before it, but for words that are written small elsewhere, too."""
    small = {word for p in passages for word in re.findall(r"\b[a-z]\w+", p.text)}
    pairs = [pair for p in passages for found in NAME.finditer(p.text) for pair in _cut(found, p.text)]
    return [(name, before) for name, before in pairs if not {w.lower() for w in name.split()} <= small]


def _cut(found: re.Match[str], text: str) -> list[tuple[str, str]]:
    """A name without the words around it that only begin a sentence."""
    words = found[0].split(" ")
    while words and words[0] in _NO_NAME:
        words = words[1:]
    while words and (words[-1] in _NO_NAME or words[-1].islower()):
        words = words[:-1]
    name = re.sub(r"['\u2019]s?$", "", " ".join(words))
    if len(name) < 3 or name.isupper() or re.search(r"\d", name):
        return []
    start = found.start() + found[0].find(words[0])
    if len(words) == 1 and re.search(r"(?:^|[.!?:][\"\u201d)]*)\s*$", text[:start]):
        return []  # capitalized as it begins a sentence, perhaps
    before = re.search(r"(\w+)\W*$", text[max(0, start - 25) : start])
    return [(name, before[1].lower() if before else "")]


def _told(name: str, before: str) -> str:
    """What a name in running text names, by its own words and the word before it."""
    own, words = _own_family(name), name.split()
    if own:
        return own
    if words[0] in _OF_PLACES or (before in ("in", "near", "at", "from") and len(words) < 3):
        return "area/settlement"
    cue = _FAMILY_OF.get(before, "")
    with_person = before in ("by", "starring", "married", "with", "mr", "mrs", "dr") and len(words) in (2, 3)
    return "person/person" if (cue.startswith("person") or with_person) and _may_be_person(name) else ""
