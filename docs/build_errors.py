"""Writes errors.md from the code: every error's words, cause and remedy. Run it with `make errors`."""

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "nasa_interp"
TABLE = Path(__file__).with_name("errors.md")
KINDS = PACKAGE / "errors.py"
HEAD = """# Errors

Every message is one line: what is wrong and where, a semicolon, what to do. The command line prints it to stderr behind
`error: ` and exits with 1; in Python each is a `NasaInterpError`. Words in *italics* stand for what was given.

This page is written from the code by `make errors`, and a test holds the two together.
"""


# Functions of results.py that put their callers' words into an error: each call is listed, in place of what they raise.
RESULTS = PACKAGE / "results.py"
FRAMES = ("read_result", "parsing_result")
READERS = "What reads files for several others: raised as the kind that its caller wants."


@dataclass(frozen=True)
class Entry:
    """One place that raises an error: its kind, cause and remedy as the message puts them, and who raises it."""

    kind: str
    cause: str
    remedy: str
    place: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """What a message from here looks like."""
        text = "; ".join(part for part in (self.cause, self.remedy) if part)
        return re.compile(".*?".join(map(re.escape, re.split(r"<[^<>]+>", text))), re.DOTALL)


def entries() -> Iterator[Entry]:
    """All errors of the package that carry words of their own, by file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function, call in _calls(tree, (*KNOWN, *FRAMES)):
            if function in FRAMES and path == RESULTS:
                continue
            raised, given = _of_frame(call) if _name(call) in FRAMES else (call, {})
            cause, _, remedy = _words(raised.args[0], given).rpartition("; ")
            place = f"{path.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}.{function}"
            yield Entry(_name(raised), *((cause, remedy) if cause else (remedy, "")), place)


def kinds() -> dict[str, str]:
    """Each kind of error and what it means, in the order of the module."""
    tree = ast.parse(KINDS.read_text(encoding="utf-8"))
    return {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.ClassDef)}


def table() -> str:
    """The whole page."""
    found, parts = list(entries()), [HEAD]
    for kind, meaning in (kinds() | {"error": READERS}).items():
        rows = [entry for entry in found if entry.kind == kind]
        if rows:
            title = "By readers" if kind == "error" else kind
            parts.append(f"## {title}\n\n{' '.join(meaning.split())}\n")
            parts.append("| cause, in the message's words | what to do | raised by |\n| --- | --- | --- |")
            parts += [f"| {_cell(e.cause)} | {_cell(e.remedy) or 'as the reason says'} | `{e.place}` |" for e in rows]
            parts[-1] += "\n"
    return "\n".join(parts)


def _calls(tree: ast.AST, names: Collection[str]) -> Iterator[tuple[str, ast.Call]]:
    """The calls of these names that are given something, each with the function that they stand in."""

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, ast.Call]]:
        inside = node.name if isinstance(node, ast.FunctionDef) else name
        if isinstance(node, ast.Call) and _name(node) in names and node.args:
            yield inside, node
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(tree, "")


def _of_frame(call: ast.Call) -> tuple[ast.Call, dict[str, ast.AST]]:
    """The one error that a frame raises, and what this call of it gives for its parameters."""
    tree = ast.parse(RESULTS.read_text(encoding="utf-8"))
    (frame,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == _name(call))
    ((_, raised),) = _calls(frame, KNOWN)
    named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    return raised, {**dict(zip((arg.arg for arg in frame.args.args), call.args, strict=False)), **named}


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _words(node: ast.AST, given: Mapping[str, ast.AST]) -> str:
    """The text of a message, with what is filled in named in angle brackets; names that are given stand for these."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(value, given) for value in node.values)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name) and node.value.id in given:
        return _words(given[node.value.id], {})
    if isinstance(node, ast.FormattedValue):
        return f"<{_short(node.value)}>"
    return f"<{_short(node)}>"


def _short(node: ast.AST) -> str:
    """A name for what an expression gives: its own last name, or what the reader will see there."""
    if isinstance(node, ast.Attribute):
        return node.attr.lstrip("_")
    if isinstance(node, ast.Name):
        return node.id.lstrip("_")
    if isinstance(node, ast.Call) and node.args:
        return _short(node.args[-1]) if not isinstance(node.args[-1], ast.GeneratorExp) else "names"
    if isinstance(node, (ast.Subscript, ast.Call)):
        return _short(node.value if isinstance(node, ast.Subscript) else node.func)
    return "..."


def _cell(text: str) -> str:
    return re.sub(r"<([^<>]+)>", r"*\1*", " ".join(text.split())).replace("|", "\\|").replace("<", "&lt;")


KNOWN = (*kinds(), "error")

if __name__ == "__main__":
    sys.stdout.write(f"{TABLE.write_text(table(), encoding='utf-8')} characters in {TABLE}\n")
