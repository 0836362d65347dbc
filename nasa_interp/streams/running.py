"""What every verb over a stream shares: chunks become parts, here or in other processes, and what is there stays."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from tqdm.auto import tqdm

from ..bootstrap import DRAWS
from ..decisions import BinaryReport
from ..models import Model
from ..prompts import Orders, PromptStyle
from ..questions import QuestionList, QuestionStream
from ..run import RunInfo, library_versions
from ..session import PromptSet, describe_run, orders_of
from .parts import Parts
from .world import World

# Notes of parts that a result repeats; parts of a large run may have many.
NOTES = 10


@dataclass(frozen=True, eq=False)
class Streamed:
    """One verb over one stream.

    Args:
        model: what is asked.
        stream: the questions.
        order, style: how they are asked.
        seed, draws: of the bootstrap.
        progress: a bar over questions.
        start: time.perf_counter() when it began.
    """

    model: Model
    stream: QuestionStream
    order: Orders = "both"
    style: PromptStyle | None = None
    seed: int = 0
    draws: int = DRAWS
    progress: bool = True
    start: float = 0.0

    @cached_property
    def base(self) -> str:
        """The hash of the model's weights, which takes time on a large one."""
        return self.model.weights_hash()

    @cached_property
    def first(self) -> PromptSet:
        """The prompts of the first chunk, on which is found out what holds for all."""
        return self.prompts(self.stream.read(0))

    def parts(self, folder: str | Path, verb: str, **setting: Any) -> Parts:
        """The run's parts; whatever could change a number in them is in their setting."""
        model, style = self.model, self.style or PromptStyle()
        asked = {
            "verb": verb, "base": self.base, "state": list(model.state_notes()), "dtype": str(model.dtype),
            "arithmetic": str(model.arithmetic), "device": model.device.type, "questions": self.stream.digest,
            "size": self.stream.size, "orders": list(orders_of(self.order)), "style": style.to_dict(),
            "versions": library_versions(),
        }  # fmt: skip
        return Parts(folder, {**asked, **setting}, self.stream.n_chunks)

    def prompts(self, questions: QuestionList) -> PromptSet:
        """The prompts of a chunk."""
        return PromptSet.build(self.model, questions, self.order, self.style, self.seed, self.draws)

    def compute(
        self, parts: Parts, world: World, make: Callable[[PromptSet], tuple[Mapping[str, Any], RunInfo]]
    ) -> None:
        """Computes what is missing of the parts, each in one of the processes, and waits until all are there.

        Args:
            parts: of this run.
            world: the processes.
            make: the columns of a chunk's part, one row a question, and how they came about.
        """
        if world.first:
            parts.clear()
        missing = world.share(parts.missing() if world.first else None)
        shown = self.progress and world.first
        with tqdm(total=self.stream.n_questions, desc="questions", unit="question", disable=not shown) as bar:
            bar.update(self.stream.n_questions - sum(self._length(number) for number in missing))
            for turn, number in enumerate(missing):
                if turn % world.size == world.rank:
                    self._part(parts, number, world, make)
                bar.update(self._length(number))
        world.wait()

    def _part(self, parts: Parts, number: int, world: World, make: Any) -> None:
        begun, asked = time.perf_counter(), self.prompts(self.stream.read(number))
        columns, run = make(asked)
        about = {
            "process": world.rank, "processes": world.size, "seconds": round(time.perf_counter() - begun, 3),
            "engine": run.engine, "dtype": run.dtype, "notes": list(run.notes),
        }  # fmt: skip
        parts.write(number, pa.table({**_of_questions(asked.questions), **columns}), about)

    def _length(self, number: int) -> int:
        return min(self.stream.size, self.stream.n_questions - number * self.stream.size)

    def run(self, parts: Parts) -> RunInfo:
        """Where the whole came from."""
        notes = list(self.stream.notes)
        abouts = [parts.about(number) for number in range(parts.n)]
        notes += dict.fromkeys(note for about in abouts for note in about["notes"] if note not in self.stream.notes)
        engines = dict.fromkeys(about["engine"] for about in abouts)
        more = [f"{len(notes) - NOTES} more notes in {parts.folder}"] if len(notes) > NOTES else []
        run = describe_run(self.model, self.first, self.start, " and ".join(engines), model_hash=self.base)
        return replace(
            run,
            data=self.stream.name,
            n_questions=self.stream.n_questions,
            dtype=abouts[0]["dtype"],
            notes=(*notes[:NOTES], *more),
        )


def decision_columns(report: BinaryReport, name: str = "") -> dict[str, Any]:
    """A report's decisions as columns with one row a question; `name` begins those of one of several reports."""
    orders = list(dict.fromkeys(report.order))
    n = len(report.order) // len(orders)
    columns: dict[str, Any] = {}
    for place, order in enumerate(orders):
        rows = slice(place * n, (place + 1) * n)
        unsure = [None] * n if report.unsure is None else report.unsure[rows]
        # They come from fp32 logits, so nothing is lost.
        columns[f"{name}d_{order}"] = pa.array(report.logit_differences[rows].astype(np.float32))
        columns[f"{name}mass_{order}"] = pa.array(report.answer_masses[rows].astype(np.float32))
        columns[f"{name}unsure_{order}"] = pa.array(unsure, pa.bool_())
    return columns


def head_column(values: Float[np.ndarray, "prompt layer head"]) -> pa.Array:
    """A number for each head and prompt, as one column."""
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def _of_questions(questions: Sequence[Any]) -> dict[str, Any]:
    text = {name: pa.array([getattr(q, name) for q in questions], pa.string()) for name in ("id", "pair", "group")}
    made = pa.array([q.made for q in questions], pa.string())
    return {**text, "label": pa.array([q.label for q in questions], pa.bool_()), "made": made}
