"""Checks of every page before it is written: nothing fetched, headings in order, everything named, not too big."""

import re
from html.parser import HTMLParser

MOST_BYTES = 8_000_000
FETCHING = {"src", "href", "srcset", "poster", "action", "data", "formaction", "background"}


class _Reader(HTMLParser):
    """Collects what the checks need."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.pointed: list[str] = []
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        for name in ("aria-labelledby", "aria-describedby"):
            self.pointed += attributes.get(name, "").split()
        for name in FETCHING & set(attributes):
            if attributes[name].startswith("#"):
                self.pointed.append(attributes[name][1:])
            elif not attributes[name].startswith("data:"):
                self.problems.append(f"<{tag} {name}={attributes[name]!r}> points outside the page")
        named = attributes.get("alt") or attributes.get("aria-label") or attributes.get("aria-hidden")
        if (tag in ("svg", "img") or attributes.get("role") == "img") and not named:
            self.problems.append(f"<{tag}> is a picture without a text")
        if any(name.startswith("on") for name in attributes):
            self.problems.append(f"<{tag}> holds a script in an attribute")


def page_problems(page: str) -> list[str]:
    """What is wrong with a page; empty if it may be written."""
    reader = _Reader()
    reader.feed(page)
    problems = list(reader.problems)
    if len(page.encode()) > MOST_BYTES:
        problems.append(f"the page has {len(page.encode()) / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}")
    if reader.headings[:1] != [1] or reader.headings.count(1) != 1:
        problems.append("the page needs one heading of the first level, before all others")
    jumps = [(a, b) for a, b in zip(reader.headings, reader.headings[1:], strict=False) if b > a + 1]
    problems += [f"a heading of level {b} follows one of level {a}" for a, b in jumps]
    problems += [
        f"the id {name!r} is given twice" for name in sorted({i for i in reader.ids if reader.ids.count(i) > 1})
    ]
    problems += [f"{target!r} is pointed at and not there" for target in sorted(set(reader.pointed) - set(reader.ids))]
    return problems
