"""Every cure fitted in one condition after another, and asked in all others."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..alignment import Limits, Recipe
from ..bootstrap import DRAWS
from ..calibration import Calibration, calibrate
from ..comparison.compare import Finished
from ..comparison.methods import random_sets
from ..comparison.table import FREE, LORA, NASA, RANDOM, UNLABELED, Entry
from ..decisions import BinaryReport, report_decisions
from ..errors import AlignmentError, QuestionError
from ..evaluation import TextReference, plain_text
from ..heads import HeadList
from ..models import Model, as_model
from ..prompts import PromptStyle
from ..questions import check_apart, check_labeled
from ..questions.registry import CONTENT_FREE
from ..session import PromptSet, describe_run
from ..torch_defaults import under_torch_defaults
from .conditions import Condition, builtin_conditions
from .cures import BASE, COLUMN, METHODS, ROW, THEN, Cure, Tuning, lora, parts, shifted, tuned
from .table import TransferMatrix, row_of

# Passages of the built-in validation text that limit what is kept, as in `align_heads`.
PASSAGES = 4


@under_torch_defaults
def transfer_matrix(
    model: Any,
    heads: HeadList | Iterable[Any],
    fitted: Sequence[Condition] | None = None,
    asked: Sequence[Condition] | None = None,
    *,
    methods: Sequence[str] | None = None,
    n_unlabeled: int = 64,
    seeds: Sequence[int] = (0,),
    n_random: int | Sequence[int] = 3,
    recipe: Recipe | None = None,
    limits: Limits | None = None,
    limit: int | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> TransferMatrix:
    """What cures are worth where they were not fitted: each is fitted in one condition and asked in all the others.

    Args:
        model: as for `align_heads`; it is left as it was.
        heads: what NASA tunes.
        fitted: the conditions that cures are fitted in, each with `val`; None takes those of `builtin_conditions`.
        asked: the conditions that are asked, with labels; of each, `n_unlabeled` questions are set aside, whose labels
            nothing looks at, and the others are asked.
        methods: some of `METHODS`; None takes all that the model takes.
        n_unlabeled: questions that a calibration is fitted on, of the row or of the column.
        seeds: that NASA and the LoRA are tuned with, with labels and without; random heads take the first. The LoRA's
            rate is chosen with the first.
        n_random: random sets of as many heads from the same layers, tuned with labels; one number for all conditions
            that are fitted on, or one for each. More methods, seeds and sets can be added to a folder later.
        recipe, limits: of NASA; the LoRA and the random sets get the same.
        limit: with the built-in conditions, so many test questions each.
        folder: where finished cells are kept, so that a killed run goes on, and where the result is written.
        seed: of what is set aside and which heads are random. draws: of the bootstrap.
        progress: a bar over cures.

    Returns:
        One row a cell, with intervals; a summary by method and a verdict in words.

    Raises:
        QuestionError: questions that something is fitted on and that are asked, or too few to set some aside.
        AlignmentError: an unknown method, no seed, numbers of random sets for other conditions, or a folder of another
            matrix.

    Source: ours.
    """
    start, model = time.perf_counter(), as_model(model)
    chosen = _check_methods(methods, model)
    defaults = builtin_conditions(limit, seed) if fitted is None or asked is None else ([], [])
    rows, columns = list(defaults[0] if fitted is None else fitted), list(defaults[1] if asked is None else asked)
    _check_conditions(rows, columns, n_unlabeled)
    counts = _check_counts(n_random, rows)
    if not seeds:
        raise AlignmentError("heads need a seed to be tuned with; give one or more, such as seeds=(0,)")
    heads = HeadList.of(heads).check(model.n_layers, model.n_heads)
    recipe, limits = recipe or Recipe(), limits or Limits()
    digest = {
        "base": model.weights_hash(), "heads": [str(h) for h in heads], "recipe": recipe.to_dict(), "seed": seed,
        "limits": limits.to_dict(), "n_unlabeled": n_unlabeled, "draws": draws,
    }  # fmt: skip
    # The folder takes more conditions, methods and seeds later: cells are named by what is in their conditions.
    finished = Finished(folder, digest, "transfer")
    matrix = _Matrix(model, columns, finished, n_unlabeled, seed, draws)
    tuning = Tuning(model, recipe, limits, TextReference.of(model, plain_text("val")[:PASSAGES], progress=False))
    table = [row_of("", column.name, matrix.base(column)) for column in columns]
    table += matrix.calibrated(rows, chosen)
    most = max(counts, default=0) if RANDOM in chosen else 0
    sets = random_sets(model, heads, most, seed) if most else ()
    # What is compared comes before the many random sets, so that a killed run has it.
    plan = [cure for row in rows for cure in _cures(tuning, heads, row, chosen, seeds, matrix)]
    for row, count in zip(rows, counts, strict=True):
        plan += _controls(tuning, sets[:count], row, seeds[0], finished.parts)
    with tqdm(plan, desc="transfer", unit="cure", disable=not progress) as bar:
        for row, method, variant, cure in bar:
            bar.set_postfix_str(f"{method} {variant} on {row.name}")
            table += matrix.cured(row, method, variant, cure, f"{method}{THEN}" in chosen)
    run = describe_run(model, matrix.prompts[columns[0].name][1], start, model.engine)
    conditions = {"fitted": _told(rows), "asked": _told(columns)}
    result = TransferMatrix.of(table, run, digest | conditions)
    if folder is not None:
        result.save(Path(folder) / "transfer.json")
    return result


def _told(conditions: Sequence[Condition]) -> dict[str, Any]:
    """What makes conditions the same."""
    return {condition.name: condition.digest for condition in conditions}


class _Matrix:
    """The columns' prompts and the untuned model's decisions on them, and the cells that are made of them."""

    def __init__(self, model: Model, columns: Sequence[Condition], finished: Finished, n: int, seed: int, draws: int):
        self.model, self.columns, self.finished = model, columns, finished
        self.n, self.seed, self.draws = n, seed, draws
        self.untuned: dict[str, Entry] = {}
        self.prompts: dict[str, tuple[PromptSet, PromptSet]] = {}
        for column in columns:
            aside, rest = (
                PromptSet.build(model, questions, "both", column.style, seed, draws)
                for questions in parts(column.questions, n, seed)
            )
            self.prompts[column.name] = aside, rest

    def base(self, column: Condition) -> Entry:
        """The untuned model's decisions on the column's questions, which are asked once."""
        if column.name not in self.untuned:
            asked = self.prompts[column.name][1]
            make = partial(self._decide, self.model, asked)
            self.untuned[column.name] = self._cell(None, column, BASE, "", make, {})
        return self.untuned[column.name]

    def calibrated(self, rows: Sequence[Condition], chosen: Sequence[str]) -> list[dict[str, Any]]:
        """The cells of all methods that only shift d."""
        table = []
        for column in self.columns:
            fits = {COLUMN: self.prompts[column.name][0].questions, FREE: CONTENT_FREE}
            for method in (method for method in fits if method in chosen):
                offsets = partial(self._fit, self.model, fits[method], column.style)
                table.append(row_of("", column.name, self._shifted(None, column, method, offsets)))
        for row in rows if ROW in chosen else ():
            offsets = cache(partial(self._fit, self.model, parts(row.questions, self.n, self.seed)[0], row.style))
            for column in self.columns:
                table.append(row_of(row.name, column.name, self._shifted(row, column, ROW, offsets)))
        return table

    def cured(self, row: Condition, method: str, variant: str, cure: Cure, then: bool) -> list[dict[str, Any]]:
        """The cells of one cure, `then` also with an offset on top; it is fitted only where one of them is missing."""
        names = [method, f"{method}{THEN}"] if then else [method]
        cells = [(column, name) for column in self.columns for name in names]
        if all(self._has(row, column, name, variant) for column, name in cells):
            entries = [self._cell(row, column, name, variant, None, {}) for column, name in cells]
        else:
            with cure() as (model, facts):
                entries = [entry for c in self.columns for entry in self._asked(row, c, names, variant, model, facts)]
        return [row_of(row.name, column.name, entry) for (column, _), entry in zip(cells, entries, strict=True)]

    def rate_of(self, row: Condition, method: str, variant: str | None) -> float | None:
        """The rate that another variant of a method took in this condition; None without one, or where it kept none."""
        if variant is None:
            return None
        tried = self._cell(row, self.columns[0], method, variant, None, {}).fitted["tried"]
        return next((trial["learning_rate"] for trial in tried if trial["taken"]), None)

    def _asked(
        self, row: Condition, column: Condition, names: Sequence[str], variant: str, model: Model, facts: dict[str, Any]
    ) -> list[Entry]:
        """The column's questions asked of a cured model; the second name stands for an offset on top."""
        aside, asked = self.prompts[column.name]
        first = self._cell(row, column, names[0], variant, lambda: self._decide(model, asked.anew(model)), facts)

        def shift() -> BinaryReport:
            return shifted(first.report, self._fit(model, aside.questions, column.style), "offset on top")

        return [first, *(self._cell(row, column, name, variant, shift, facts) for name in names[1:])]

    def _shifted(
        self, row: Condition | None, column: Condition, method: str, offsets: Callable[[], Calibration]
    ) -> Entry:
        """The untuned model's decisions less these offsets."""
        base = self.base(column).report
        return self._cell(row, column, method, "", lambda: shifted(base, offsets(), "offset"), {})

    def _fit(self, model: Model, data: Any, style: PromptStyle) -> Calibration:
        return calibrate(model, data, style=style, seed=self.seed, draws=1, progress=False)

    def _decide(self, model: Model, asked: PromptSet) -> BinaryReport:
        return report_decisions(model, asked, progress=False)

    def _has(self, row: Condition | None, column: Condition, method: str, variant: str) -> bool:
        return self.finished.has(_name(row, column, method, variant))

    def _cell(
        self, row: Condition | None, column: Condition, method: str, variant: str, make: Any, facts: dict[str, Any]
    ) -> Entry:
        name = _name(row, column, method, variant)
        weights = int(facts.get("weights", 0))
        return self.finished.get(name, lambda: Entry(method, variant, make(), weights, fitted=facts))


def _name(row: Condition | None, column: Condition, method: str, variant: str) -> str:
    """The folder of a cell."""
    fitted = "nothing" if row is None else f"{_slug(row.name)}-{row.digest}"
    return f"{fitted}/{_slug(f'{method} {variant}'.strip())}/{_slug(column.name)}-{column.digest}"


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "_" for c in text)


Planned = tuple[Condition, str, str, Cure]
"""A cure to come: condition, method, variant, and how."""


def _cures(
    tuning: Tuning, heads: HeadList, row: Condition, chosen: Sequence[str], seeds: Sequence[int], matrix: _Matrix
) -> list[Planned]:
    """What is tuned in this condition, but for random heads."""
    plan: list[Planned] = []
    folder = matrix.finished.parts
    for method, labels in ((NASA, True), (f"{NASA} {UNLABELED}", False)):
        # An offset on top needs the tuned heads, whether or not they were asked for by themselves.
        for seed in seeds if {method, f"{method}{THEN}"} & set(chosen) else ():
            place = _place(folder, row, f"{method} seed {seed}")
            plan.append((row, method, f"seed {seed}", tuned(tuning, heads, row, labels, seed, place)))
    for method, labels in ((LORA, True), (f"{LORA} {UNLABELED}", False)):
        for seed in seeds if method in chosen else ():
            # The first seed tries the rates, and the others take the one that was best.
            rate_of = partial(matrix.rate_of, row, method, None if seed == seeds[0] else f"seed {seeds[0]}")
            plan.append((row, method, f"seed {seed}", lora(tuning, heads, row, labels, seed, rate_of)))
    return plan


def _controls(
    tuning: Tuning, sets: Sequence[HeadList], row: Condition, seed: int, folder: Path | None
) -> list[Planned]:
    """The random heads that are tuned in this condition."""
    names = [f"set {number}" for number in range(len(sets))]
    return [
        (row, RANDOM, name, tuned(tuning, drawn, row, True, seed, _place(folder, row, name)))
        for name, drawn in zip(names, sets, strict=True)
    ]


def _place(folder: Path | None, row: Condition, name: str) -> Path | None:
    """Where a cure keeps its tuning."""
    return None if folder is None else folder / "tuning" / f"{_slug(row.name)}-{row.digest}" / _slug(name)


def _check_counts(n_random: int | Sequence[int], rows: Sequence[Condition]) -> list[int]:
    """How many random sets each condition gets."""
    counts = [n_random] * len(rows) if isinstance(n_random, int) else list(n_random)
    if len(counts) != len(rows):
        raise AlignmentError(
            f"{len(counts)} numbers of random sets for {len(rows)} conditions that are fitted on; give one, or one each"
        )
    return counts


def _check_methods(methods: Sequence[str] | None, model: Model) -> tuple[str, ...]:
    if methods is None:
        return tuple(name for name in METHODS if not name.startswith(LORA) or model.has_hf)
    if unknown := [name for name in methods if name not in METHODS]:
        raise AlignmentError(f"there is no method {unknown[0]!r} to carry over; there are {', '.join(METHODS)}")
    return tuple(methods)


def _check_conditions(rows: Sequence[Condition], columns: Sequence[Condition], n: int) -> None:
    """Nothing is asked that something was fitted on, and enough is left to ask."""
    for kind, conditions in (("fitted", rows), ("asked", columns)):
        names = [condition.name for condition in conditions]
        if twice := [name for name in names if names.count(name) > 1]:
            raise QuestionError(f"two {kind} conditions are called {twice[0]!r}; give each its own name")
    if not columns:
        raise QuestionError("there is no condition to ask in; give one or more")
    for column in columns:
        check_labeled(column.questions, "ask")
        if len(column.questions) < 2 * n:
            raise QuestionError(
                f"{column.name!r} has {len(column.questions)} questions, of which {n} would be set aside; give "
                f"twice as many, or a smaller n_unlabeled"
            )
        for row in rows:
            for questions in (row.questions, row.held_out):
                check_apart(questions, column.questions, "on which cures are fitted", "ask")
