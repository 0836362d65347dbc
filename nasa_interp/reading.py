"""Reads files exactly as written: nothing is dropped, filled in or cut silently."""

import csv
import io
import json
import math
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .errors import NasaInterpError

# The delimiters of a table; the later ones count where the header holds no comma.
DELIMITERS = {",": "','", ";": "';'", "\t": "tabs"}


def shown(value: Any) -> str:
    """A value as errors quote it, always short."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python doesn't print integers of more than a few thousand digits.
        return "a number of thousands of digits"


def read_text(path: str | Path, error: type[NasaInterpError]) -> str:
    """The text of a UTF-8 file, with or without a byte-order mark; line breaks stay as they are.

    Raises `error` with the path where the file is missing or not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = problem.object.count(b"\n", 0, problem.start) + 1
        raise error(f"{path}, line {line} is not UTF-8 text ({problem.reason}); convert the file") from problem
    except OSError as problem:
        raise error(f"{path} can't be read ({problem.strerror}); check the path") from problem
    except ValueError as problem:  # A path with NUL or half a surrogate pair in it.
        raise error(f"{str(path)!r} can't be read ({problem}); check the path") from problem


class Line(NamedTuple):
    """One line of a file, its end included: its number from 1 on, and the byte behind it."""

    number: int
    text: str
    end: int


def read_lines(path: str | Path, error: type[NasaInterpError], start: int = 0, number: int = 1) -> Iterator[Line]:
    """The lines of a UTF-8 file one by one, as `read_text` reads them whole; raises as it does.

    Args:
        start, number: the byte at which to begin, and the number of the line there.
    """
    end = start
    try:
        with Path(path).open("rb") as file:
            file.seek(start)
            for line in file:
                # A lone carriage return ends a line, too.
                for raw in line.splitlines(keepends=True):
                    end += len(raw)
                    yield Line(number, raw.decode("utf-8-sig" if number == 1 else "utf-8"), end)
                    number += 1
    except UnicodeDecodeError as problem:
        raise error(f"{path}, line {number} is not UTF-8 text ({problem.reason}); convert the file") from problem
    except OSError as problem:
        raise error(f"{path} can't be read ({problem.strerror}); check the path") from problem
    except ValueError as problem:
        raise error(f"{str(path)!r} can't be read ({problem}); check the path") from problem


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: where it isn't JSON (JSONDecodeError), or where Python would misread it: a key twice in one object,
            NaN, numbers that are too large, nesting that is too deep.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_float, parse_int=_whole
        )
    except RecursionError:
        raise ValueError("lists or objects are nested too deep to be read; write them flat") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {shown(key)} is there twice ({shown(content[key])}, {shown(value)}); keep one")
        content[key] = value
    return content


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number; write null, or leave the field out")


def _float(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{shown(digits)} is too large for a number; write it as text")
    return number


def _whole(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise ValueError(f"a number has {len(digits)} digits; write it as text") from None


def read_table(
    path: Path, error: type[NasaInterpError], delimiters: str = ","
) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """The column names of a CSV file, and its rows, each with the location where it begins ("file, line 3").

    A text with the delimiter, a quote or a line break in it must be quoted, with inner quotes doubled (RFC 4180).
    White space around column names is stripped, blank lines are skipped, and columns without a name are left out:
    empty ones, and the first where it holds row numbers, as pandas writes them.

    Args:
        path: the file.
        error: raised with the path and the line for anything else: an open quote, text after a closing quote, more or
            fewer cells than column names, a duplicate name, text in a column without a name.
        delimiters: the accepted ones, of `DELIMITERS`.
    """
    text = read_text(path, error)
    header = next(filter(str.strip, io.StringIO(text, newline=None)), "")
    delimiter = delimiter_of(path, header, error, delimiters)
    lines = table_lines(path, io.StringIO(text, newline=""), delimiter, error)
    names = column_names(*next(lines, ("", [])), error)
    return list(filter(None, names)), [
        (location, table_row(location, names, cells, error)) for location, cells in lines
    ]


def column_names(location: str, header: list[str], error: type[NasaInterpError]) -> list[str]:
    """The names in a table's first line, "" for a column without one; raises `error` where one is there twice."""
    names = [name.strip() for name in header]
    for name in filter(None, names):
        if names.count(name) > 1:
            raise error(f"{location} names the column {shown(name)} twice; keep one")
    return names


def delimiter_of(path: Path, header: str, error: type[NasaInterpError], known: str = ",") -> str:
    """The delimiter between the names of the header; raises `error` where it is none of the known ones."""
    delimiter = next((sign for sign in DELIMITERS if sign in header), ",")
    if delimiter not in known:
        wanted = " or ".join(DELIMITERS[sign] for sign in known)
        raise error(
            f"{path} has {DELIMITERS[delimiter]} between its columns where {wanted} must be; write it anew, such as "
            f"with pandas: read_csv(..., sep={delimiter!r}).to_csv(..., index=False)"
        )
    return delimiter


def table_lines(
    path: Path, lines: Iterable[str], delimiter: str, error: type[NasaInterpError], number: int = 1
) -> Iterator[tuple[str, list[str]]]:
    """The cells of each row, with the location where it begins; no line behind a row is read before its next one.

    Args:
        lines: with their ends; number: of the first.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        location = f"{path}, line {number + reader.line_num}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            raise error(
                f"{location} is not CSV ({problem}); close every quote, and double those within a text"
            ) from problem
        if len(cells) > 1 or any(map(str.strip, cells)):
            yield location, cells


def table_row(location: str, names: list[str], cells: list[str], error: type[NasaInterpError]) -> dict[str, str]:
    """The cells by column name."""
    if len(cells) != len(names):
        raise error(
            f"{location} has {len(cells)} cells where the header has {len(names)}; "
            "put texts that hold the delimiter or a line end in quotes, and leave no cell out"
        )
    for column, (name, cell) in enumerate(zip(names, cells, strict=True)):
        if cell[:1].isspace() and cell.lstrip().startswith('"'):
            raise error(
                f"{location} has a space before a quote, {shown(cell)}, which makes the quote text; take it out"
            )
        if not name and cell.strip() and not (column == 0 and cell.isdecimal()):
            raise error(f"{location} has {shown(cell)} in a column without a name; name the column, or quote the text")
    return {name: cell for name, cell in zip(names, cells, strict=True) if name}
