"""Questions that are never all in memory: read twice from their file, first to check them all, then chunk by chunk."""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..bootstrap import cluster_keys
from ..errors import QuestionError
from ..reading import column_names, delimiter_of, read_lines, table_lines, table_row
from .files import SUFFIXES, checked_row, json_value
from .question import BinaryQuestion, QuestionList
from .reading_rows import BadRow
from .registry import SOURCES, check_labeled_alike, check_seed, load_questions
from .resolve import resolve_questions
from .rows import read_row, text_of
from .specification import path_and_split

# Questions in a chunk: enough that batches of equal lengths are found among them, few enough to be lost in a kill.
CHUNK = 256


class Mark(NamedTuple):
    """A place in a file: a byte, and the number of the line that begins there."""

    byte: int
    number: int


class Row(NamedTuple):
    """A row of a file: where reading it begins, its location in words, and its fields or what is wrong with it."""

    mark: Mark
    location: str
    fields: Any

    @property
    def line(self) -> int:
        """The number of its line."""
        return int(self.location.rpartition(" ")[2])


@dataclass(frozen=True, eq=False)
class QuestionStream:
    """Questions that come in chunks, always in the same ones.

    Args:
        name: the data specification.
        n_questions: how many there are.
        digest: a hash of all of them.
        notes: what a result should say of the data.
        size: questions in a chunk.
        read: the questions of a chunk, by its number.
    """

    name: str
    n_questions: int
    digest: str
    notes: tuple[str, ...]
    size: int
    read: Callable[[int], QuestionList]

    @property
    def n_chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.n_questions // self.size)

    @classmethod
    def open(
        cls,
        data: Any,
        size: int = CHUNK,
        *,
        limit: int | None = None,
        seed: int = 0,
        unlabeled: bool = False,
        skip_bad: bool = False,
    ) -> "QuestionStream":
        """Checks all questions, and is ready to read them again in chunks.

        Args:
            data: a `.jsonl` or `.csv` file, which is never read whole; any other data, which are.
            size: questions in a chunk.
            limit, seed: keep about so many, drawn as `load_questions` does, which reads the whole file.
            unlabeled, skip_bad: as for `load_questions`.

        Raises:
            QuestionError: as `load_questions` does; a chunk of no questions. A doubled id is an error also with
                `skip_bad`.
        """
        check_seed(seed)
        if size < 1:
            raise QuestionError(f"a chunk of {size} questions holds none; give 1 or more")
        if isinstance(data, cls):
            return data
        text = str(data)
        in_file = isinstance(data, (str, Path)) and text.partition(":")[0] not in SOURCES
        if in_file and limit is None and Path(path_and_split(text)[0]).suffix.lower() in SUFFIXES:
            return _opened(text, size, unlabeled, skip_bad)
        if isinstance(data, (str, Path)):
            return cls.of(load_questions(data, limit, seed, unlabeled, skip_bad), size)
        return cls.of(resolve_questions(data, limit, seed), size)

    @classmethod
    def of(cls, questions: QuestionList, size: int = CHUNK) -> "QuestionStream":
        """The chunks of questions that lie in memory."""
        digest = hashlib.sha256()
        for question in questions:
            _add(digest, question)

        def read(number: int) -> QuestionList:
            return QuestionList(questions[number * size : (number + 1) * size], questions.name)

        return cls(questions.name, len(questions), digest.hexdigest(), questions.notes, size, read)


@dataclass
class _Checked:
    """What a first pass over a file has found so far; a row takes 20 bytes."""

    ids: array
    pairs: array
    lines: array
    digest: Any
    labeled: str = ""
    blank: str = ""

    def add(self, row: Row, question: BinaryQuestion) -> None:
        """Counts a question in."""
        key, pair = cluster_keys([question.id, question.id], [None, question.pair])
        self.ids.append(int(key))
        self.pairs.append(int(pair) if question.pair is not None else 0)
        self.lines.append(row.line)
        _add(self.digest, question)
        if question.label is None:
            self.blank = self.blank or question.id
        else:
            self.labeled = self.labeled or question.id


def _opened(data: str, size: int, unlabeled: bool, skip_bad: bool) -> QuestionStream:
    """A file that was read once."""
    path, split = path_and_split(data)
    table = _Table(Path(path), split)
    checked = _Checked(array("Q"), array("Q"), array("Q"), hashlib.sha256())
    marks, skipped, left_out = [], [], set()
    for row in table.rows():
        try:
            question = _question(row, unlabeled)
        except QuestionError as error:
            if not skip_bad:
                raise error
            skipped.append(BadRow(row.location, error).skipped)
            left_out.add(row.mark.byte)
            continue
        if len(checked.ids) % size == 0:
            marks.append(row.mark)
        checked.add(row, question)
    n = len(checked.ids)
    if not n:
        raise QuestionError(f"{data} holds no questions; name another file or split")
    check_labeled_alike(data, (checked.blank or None) if checked.labeled else None)
    _check_apart(table, checked)
    stamp = table.stamp()

    def read(number: int) -> QuestionList:
        if table.stamp() != stamp:
            raise QuestionError(f"{path} was written to while it was read; start again")
        return QuestionList(table.questions(marks[number], min(size, n - number * size), left_out, unlabeled), data)

    notes = QuestionList([], data, skipped).notes
    return QuestionStream(data, n, checked.digest.hexdigest(), notes, size, read)


def _question(row: Row, unlabeled: bool) -> BinaryQuestion:
    """The question of a row; without a label where the row has none."""
    if isinstance(row.fields, QuestionError):
        raise row.fields
    return read_row(row.location, row.fields, not unlabeled and row.fields.get("label") not in (None, ""))


def _check_apart(table: "_Table", checked: _Checked) -> None:
    """Raises QuestionError where two questions share an id, or more than two a pair."""
    lines = np.frombuffer(checked.lines, dtype=np.uint64)
    for keys, most, what in ((checked.ids, 1, "id"), (checked.pairs, 2, "pair")):
        numbers = np.frombuffer(keys, dtype=np.uint64)
        ordered = np.sort(numbers)
        too_many = ordered[most:][(ordered[most:] == ordered[:-most]) & (ordered[most:] != 0)]
        if len(too_many):
            where = lines[numbers == too_many[0]].tolist()
            at = ", ".join(map(str, where[:3]))
            raise QuestionError(
                f"{table.path}: {len(where)} questions share the {what} of the row in line {where[0]} (lines {at}); "
                f"give each {'its own' if what == 'id' else 'pair two questions at most'}"
            )


class _Table:
    """A `.jsonl` or `.csv` file, read row by row from any mark.

    Args:
        path: the file.
        split: keep only the rows with this `split`.
    """

    def __init__(self, path: Path, split: str | None):
        self.path, self.split = path, split
        self.names: list[str] = []
        self.delimiter, self.first = ",", Mark(0, 1)
        if path.suffix.lower() == ".csv":
            self._read_header()

    def stamp(self) -> tuple[int, int]:
        """What changes when the file is written to."""
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns

    def rows(self, mark: Mark | None = None) -> Iterator[Row]:
        """The rows of the split from a mark on."""
        start = mark or self.first
        rows = self._cells(start) if self.names else self._values(start)
        for row in rows:
            # A row that can't be read may be of any split.
            if self.split is None or isinstance(row.fields, QuestionError) or self._split_of(row) == self.split:
                yield row

    @staticmethod
    def _split_of(row: Row) -> str | None:
        return text_of(row.location, row.fields, "split")

    def questions(self, mark: Mark, n: int, left_out: set[int], unlabeled: bool) -> list[BinaryQuestion]:
        """So many questions from a mark on."""
        found: list[BinaryQuestion] = []
        for row in self.rows(mark):
            if row.mark.byte not in left_out:
                found.append(_question(row, unlabeled))
            if len(found) == n:
                break
        return found

    def _values(self, start: Mark) -> Iterator[Row]:
        mark = start
        for line in read_lines(self.path, QuestionError, start.byte, start.number):
            location = f"{self.path}, line {line.number}"
            if line.text.strip():
                yield Row(mark, location, checked_row(location, json_value(location, line.text)))
            mark = Mark(line.end, line.number + 1)

    def _read_header(self) -> None:
        first = next((line for line in read_lines(self.path, QuestionError) if line.text.strip()), None)
        if first is None:
            return
        self.delimiter = delimiter_of(self.path, first.text, QuestionError)
        for mark, location, cells in self._lines(Mark(0, 1)):
            self.names = column_names(location, cells, QuestionError)
            self.first = mark
            return

    def _cells(self, start: Mark) -> Iterator[Row]:
        mark = start
        for behind, location, cells in self._lines(start):
            yield Row(mark, location, table_row(location, self.names, cells, QuestionError))
            mark = behind

    def _lines(self, start: Mark) -> Iterator[tuple[Mark, str, list[str]]]:
        """The cells of each row, with the mark behind it: the reader takes no line before it needs it."""
        behind = start

        def texts() -> Iterator[str]:
            nonlocal behind
            for line in read_lines(self.path, QuestionError, start.byte, start.number):
                behind = Mark(line.end, line.number + 1)
                yield line.text

        for location, cells in table_lines(self.path, texts(), self.delimiter, QuestionError, start.number):
            yield behind, location, cells


def _add(digest: Any, question: BinaryQuestion) -> None:
    digest.update(repr(question).encode() + b"\0")
