"""What an explorer computes: the numbers behind its page, each by the verb that computes it anywhere else."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ..decisions import BinaryReport
from ..errors import ModelError
from ..head_table import HeadTable
from ..heads import Head, HeadList
from ..interventions import AblationEffect, Ablator, Intervention, sweep_heads
from ..models import as_model
from ..prompts import ORDERS, Order, PromptStyle, build_prompts
from ..questions import QuestionList, resolve_questions
from ..run import RunInfo
from ..scoring import HeadScores
from ..scoring.engine import choose_engine
from ..scoring.score import check_defined, score_chunk
from ..session import PromptSet, describe_run
from ..torch_defaults import under_torch_defaults
from ..view import ShownPrompt, view_heads
from .work import Step

# Questions a step: a click waits no longer than one step takes.
CHUNK = 4
# All heads of a prompt are viewed at once as long as their patterns hold no more numbers than these (256 MB).
MOST_PATTERNS = 64_000_000


class Exploration:
    """A model and questions under the lens; each number is that of the verb of the same name.

    What is long comes in steps (`scoring`, `sweeping`, `intervening`): iterators that do one part and yield. Prompts
    are kept once viewed, and belong to the model as it was then.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        data: questions, or a data specification.
        style: wording and candidates.
        limit: so many questions only, drawn evenly from the groups.
        seed: of that draw and of the bootstrap.
        swept: how many of the questions a sweep over all heads asks.
    """

    def __init__(
        self, model: Any, data: Any, style: PromptStyle | None = None, limit: int | None = 16, seed: int = 0,
        swept: int = 4,
    ):  # fmt: skip
        self.model, self.style, self.seed = as_model(model), style, seed
        self.questions = resolve_questions(data, limit, seed)
        self.few = resolve_questions(self.questions, min(swept, len(self.questions)), seed)
        self.scores: HeadScores | None = None
        self.sweep: HeadTable | None = None
        self._shown: dict[tuple[int, Order], ShownPrompt] = {}
        self._ablators: dict[str, Ablator] = {}
        self._hash, self._state = "", ()

    @property
    def size(self) -> tuple[int, int]:
        """Number of layers, number of heads in a layer."""
        return self.model.n_layers, self.model.n_heads

    def tables(self) -> dict[str, HeadTable]:
        """What is known of all heads, by name."""
        known: dict[str, HeadTable | None] = {"scores": self.scores, "sweep": self.sweep}
        return {name: table for name, table in known.items() if table is not None}

    def shown(self, place: int, head: Any) -> list[ShownPrompt]:
        """The question at this place under a head, in each candidate order; kept from then on."""
        return [self._prompt(place, order, Head.parse(head)) for order in ORDERS]

    def kept(self) -> list[list[ShownPrompt]]:
        """For each question that was viewed in both orders, its prompts."""
        places = sorted({place for place, _ in self._shown})
        pairs = [[self._shown.get((place, order)) for order in ORDERS] for place in places]
        return [[shown for shown in pair if shown is not None] for pair in pairs if None not in pair]

    def _prompt(self, place: int, order: Order, head: Head) -> ShownPrompt:
        known = self._shown.get((place, order))
        if known is None or head not in known.heads:
            heads = self._heads_at_once(place, order, head)
            view = view_heads(self.model, self.questions[place], heads, order, self.style)
            self._shown[place, order] = known = ShownPrompt.of(view)
        return known

    def _heads_at_once(self, place: int, order: Order, head: Head) -> list[Head]:
        """All heads of the model, or those of the layer, or this head alone, as memory allows."""
        HeadList((head,)).check(*self.size)
        (layers, heads), one = self.size, [self.questions[place]]
        length = build_prompts(self.model, one, order, self.style).tokens.shape[1]
        if layers * heads * length**2 <= MOST_PATTERNS:
            return [Head(layer, index) for layer in range(layers) for index in range(heads)]
        if heads * length**2 <= MOST_PATTERNS:
            return [Head(head.layer, index) for index in range(heads)]
        return [head]

    def scoring(self) -> Iterator[Step]:
        """Scores of all heads, a few questions a step; `scores` is set at the end."""
        start, total = time.perf_counter(), len(self.questions)
        asked = PromptSet.build(self.model, self.questions, "both", self.style, self.seed)
        check_defined(asked)
        choice = choose_engine(self.model, asked.batches[0], "auto")
        found: dict[str, list[Float[np.ndarray, "prompt layer head"]]] = {order: [] for order in asked.orders}
        for rows in _chunks(total):
            for order, numbers in self._scored(_part(asked, rows), choice).items():
                found[order].append(numbers)
            yield Step(rows[-1] + 1, total)
        per_prompt = {order: np.concatenate(parts) for order, parts in found.items()}
        run = describe_run(self.model, asked, start, choice.engine, (choice.note,) if choice.note else ())
        self.scores = HeadScores.from_prompts(per_prompt, self.questions, run)

    @under_torch_defaults
    def _scored(self, part: PromptSet, choice: Any) -> dict[str, Float[np.ndarray, "prompt layer head"]]:
        return score_chunk(self.model, part, choice, "prompt")[0]

    def sweeping(self) -> Iterator[Step]:
        """What zeroing each head alone does to d, from the last layer down; `sweep` holds the layers so far."""
        layers, heads = self.size
        asked = PromptSet.build(self.model, self.few, "both", self.style, self.seed)
        grids = {order: np.full((len(self.few), layers, heads), np.nan) for order in asked.orders}
        for layer in reversed(range(layers)):
            row = sweep_heads(self.model, list(asked.batches), [(layer, index) for index in range(heads)])
            for order, numbers in row.per_prompt.items():
                grids[order][:, layer] = numbers[:, layer]
            more = {"quantity": row.quantity, "sign": row.sign}
            self.sweep = HeadTable.from_prompts(grids, self.few, row.run, **more)
            yield Step(layers - layer, layers)

    def intervening(
        self, heads: HeadList, what: Intervention, place: int, found: list[AblationEffect]
    ) -> Iterator[Step]:
        """d before and after: first on the question at this place, then on all questions, a few a step.

        Args:
            heads: the heads that are changed; what: how.
            found: is filled with one effect a step: that on the question, then those on some questions each.

        Raises:
            ModelError: where the model was changed since it was asked as it was.
        """
        self._check_unchanged()
        parts = [[place], *_chunks(len(self.questions))]
        for done, rows in enumerate(parts, start=1):
            found.append(self._ablator(rows).effect_of(heads, what))
            yield Step(done, len(parts))

    def prepare(self, place: int) -> None:
        """Asks the question at this place as the model is, so that a first intervention answers as soon as later ones.

        A model that can't be intervened on is told of when somebody asks for an intervention.
        """
        self._hash, self._state = self.model.weights_hash(), self.model.state_notes()
        with suppress(ModelError):
            self._ablator([place])

    def _check_unchanged(self) -> None:
        """By weights, hooks and adapters, as `Ablator.check_unchanged`, without asking prompts again."""
        now = self.model.weights_hash(), self.model.state_notes()
        if self._ablators and now != (self._hash, self._state):
            raise ModelError(
                f"{self.model.name} was changed since the explorer asked it, so the two can't be compared; "
                f"call refresh()"
            )
        self._hash, self._state = now

    def refresh(self) -> None:
        """Forgets prompts and decisions of the model as it was; scores stay until they are computed anew."""
        self._shown.clear()
        self._ablators.clear()

    def _ablator(self, rows: list[int]) -> Ablator:
        """Asks these questions, as the model is and under interventions; kept."""
        key = ",".join(map(str, rows))
        if key not in self._ablators:
            some = QuestionList([self.questions[row] for row in rows], self.questions.name)
            self._ablators[key] = Ablator(self.model, some, style=self.style, draws=0, progress=False, seed=self.seed)
        return self._ablators[key]

    def run(self) -> RunInfo:
        """Where the numbers come from: the scores' run, where there are scores, else a description of the questions."""
        if self.scores is not None:
            return self.scores.run
        return RunInfo(self.model.name, self.questions.name, len(self.questions), ORDERS)


def joined(effects: list[AblationEffect]) -> AblationEffect:
    """The effects on some questions each as one, order by order as `ablation_effect` gives it."""
    first = effects[0]
    return replace(first, base=_joined([e.base for e in effects]), changed=_joined([e.changed for e in effects]))


def _joined(reports: list[Any]) -> BinaryReport:
    orders = tuple(dict.fromkeys(reports[0].order))
    picked = [(report, np.array(report.order) == order) for order in orders for report in reports]
    d = np.concatenate([report.logit_differences[rows] for report, rows in picked])
    mass = np.concatenate([report.answer_masses[rows] for report, rows in picked])
    questions = tuple(q for report, rows in picked for q, own in zip(report.questions, rows, strict=True) if own)
    order = tuple(name for report, rows in picked for name, own in zip(report.order, rows, strict=True) if own)
    run = replace(reports[0].run, n_questions=len(questions) // len(orders))
    unsure = [report.unsure[rows] for report, rows in picked if report.unsure is not None]
    return BinaryReport(d, mass, order, questions, run, np.concatenate(unsure) if unsure else None)


def _part(asked: PromptSet, rows: list[int]) -> PromptSet:
    questions = QuestionList([asked.questions[row] for row in rows], asked.questions.name)
    return PromptSet(questions, tuple(batch.select(rows) for batch in asked), asked.seed, asked.draws)


def _chunks(n: int) -> list[list[int]]:
    return [list(range(start, min(start + CHUNK, n))) for start in range(0, n, CHUNK)]
