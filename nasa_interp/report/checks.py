"""What must hold for every page that is written: nothing fetched, headings in order, everything named, not too big."""

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
        found = {name: value or "" for name, value in attrs}
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in found:
            self.ids.append(found["id"])
        for name in ("aria-labelledby", "aria-describedby"):
            self.pointed += found.get(name, "").split()
        for name in FETCHING & set(found):
            if found[name].startswith("#"):
                self.pointed.append(found[name][1:])
            elif not found[name].startswith("data:"):
                self.problems.append(f"<{tag} {name}={found[name]!r}> points outside the page")
        named = found.get("alt") or found.get("aria-label") or found.get("aria-hidden")
        if (tag in ("svg", "img") or found.get("role") == "img") and not named:
            self.problems.append(f"<{tag}> is a picture without a text")
        if any(name.startswith("on") for name in found):
            self.problems.append(f"<{tag}> holds a script in an attribute")


def page_problems(page: str) -> list[str]:
    """What is wrong with a page; nothing, if it may be written."""
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
        f"the id {each!r} is given twice" for each in sorted({i for i in reader.ids if reader.ids.count(i) > 1})
    ]
    problems += [f"{each!r} is pointed at and not there" for each in sorted(set(reader.pointed) - set(reader.ids))]
    return problems
