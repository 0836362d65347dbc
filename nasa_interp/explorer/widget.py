"""The explorer in a notebook: all state and every number are Python's, the page draws them and sends clicks back."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from traitlets import Bool, Dict, Int, List, Unicode

from ..errors import HeadError, ModelError, NasaInterpError, first_line
from ..head_table import HeadTable
from ..heads import Head, HeadList
from ..interventions import AblationEffect, Intervention, Knockout, Scale, Zero
from ..prompts import PromptStyle
from ..scoring import HeadScores
from ..view import Snapshot
from ..view.markup import KEY
from ..view.page import explorer_script, explorer_style
from ..view.snapshot import grids_of
from .content import effect_content
from .exploration import Exploration, joined
from .work import Step, Work


class Explorer(anywidget.AnyWidget):
    """Heads by clicking: the heat map of all heads, one head on one prompt, chosen heads, and what changing them does.

    Show it as a cell's last line. Whatever is clicked can be set and called in Python as well: `shown`, `question`,
    `heads`, `zero()`, `knockout()`, `scale(factor)`, `sweep()`, `stop()`.

    Caveat: prompts that were viewed are kept, and belong to the model as it was; after a change of the model call
        `refresh()`. Interventions refuse a model that was changed.
    """

    size = List(Int()).tag(sync=True)
    grids = List(Dict()).tag(sync=True)
    questions = List(Dict()).tag(sync=True)
    column = Unicode().tag(sync=True)
    shown = Unicode().tag(sync=True)
    question = Int(0).tag(sync=True)
    chosen = List(Unicode()).tag(sync=True)
    view = Dict().tag(sync=True)
    effect = Dict().tag(sync=True)
    task = Dict().tag(sync=True)
    note = Unicode().tag(sync=True)
    key = Unicode(KEY).tag(sync=True)
    live = Bool(True).tag(sync=True)

    def __init__(self, exploration: Exploration):
        self._exploration, self._given, self._effects = exploration, HeadList(()), []
        self._work = Work(self._show_task, self._tell)
        self._esm, self._css = explorer_script(), explorer_style()
        asked = [{"text": q.question, "group": q.group, "label": q.label} for q in exploration.questions]
        super().__init__(size=list(exploration.size), questions=asked)
        self.on_msg(self._hear)
        self._show_tables()
        # Only from here on does a change of the prompt or the head run the model.
        self.observe(self._show_view, ["shown", "question"])
        first = "viewing the prompt" if exploration.scores is not None else "scoring heads"
        self._work.start(first, self._opening())

    def _opening(self) -> Iterator[Step]:
        """What a page shows first, apart from what was handed over: scores, and the first prompt."""
        if self._exploration.scores is None:
            yield from self._exploration.scoring()
            self._show_tables()
        if not self.shown:
            self.shown = self._first_head()
        yield Step(1, 2)
        self._exploration.prepare(self.question)
        yield Step(2, 2)

    def _first_head(self) -> str:
        scores = self._exploration.scores
        assert scores is not None
        found = scores.looking("polarity", toward="bias")
        return str(found[0] if len(found) else Head(0, 0))

    # What people click, in Python ------------------------------------------------------------------------------------

    @property
    def heads(self) -> HeadList:
        """The chosen heads; a list that was set comes back as it was until a click changes it."""
        if self.chosen == [str(head) for head in self._given]:
            return self._given
        run = self._exploration.run().to_dict()
        return replace(HeadList.of(self.chosen), run=run)

    @heads.setter
    def heads(self, heads: HeadList | Iterable[Any]) -> None:
        self._given = HeadList.of(heads).check(*self._exploration.size)
        self.chosen = [str(head) for head in self._given]

    @property
    def scores(self) -> HeadScores | None:
        """The scores of the heat map; None while they are computed."""
        return self._exploration.scores

    @property
    def effects(self) -> HeadTable | None:
        """What zeroing each head alone does to d, as far as it was swept; None before."""
        return self._exploration.sweep

    @property
    def last_effect(self) -> AblationEffect | None:
        """The last intervention's effect on all questions; None before, and until it is whole."""
        whole = self._effects[1:]
        return joined(whole) if self.effect.get("whole") else None

    def zero(self) -> None:
        """Zeroes the chosen heads (the shown one where none is chosen) and shows d before and after."""
        self._intervene(Zero())

    def knockout(self) -> None:
        """Cuts these heads' attention to the candidates and shows d before and after."""
        self._intervene(Knockout())

    def scale(self, factor: float) -> None:
        """Multiplies these heads' outputs and shows d before and after."""
        self._intervene(Scale(factor))

    def sweep(self) -> None:
        """Zeroes every head alone, from the last layer down, and shows the effects as a heat map that fills up."""
        self._work.start("zeroing each head", self._sweeping())

    def stop(self) -> None:
        """Ends what is under way; what is finished stays."""
        self._work.stop()

    def refresh(self) -> None:
        """Takes the model as it is now: forgets prompts and decisions; scores stay as they were."""
        self._exploration.refresh()
        self.effect, self.note = {}, ""
        self._show_view()

    def snapshot(self) -> Snapshot:
        """What the page holds now, without the model: a value to save, and a page of its own."""
        effects = [dict(self.effect)] if self.effect else []
        found = self._exploration
        return Snapshot.of(found.tables(), found.kept(), found.run(), self.heads, effects)

    def save(self, path: str | Path) -> Path:
        """Writes the snapshot as JSON; as `explorer.json` in a run folder it is part of the report."""
        return self.snapshot().save(path)

    def save_page(self, path: str | Path) -> Path:
        """Writes the same page, without a kernel, as one HTML file that opens offline."""
        return self.snapshot().save_page(path)

    def __repr__(self) -> str:
        found = self._exploration
        return f"Explorer({found.model.name}, {len(found.questions)} questions; {self.heads!r})"

    # What the page sends and what it is told -------------------------------------------------------------------------

    @traitlets.validate("chosen")
    def _check_chosen(self, proposal: Any) -> list[str]:
        heads = HeadList.of(proposal["value"]).check(*self._exploration.size)
        return [str(head) for head in heads]

    @traitlets.validate("shown")
    def _check_shown(self, proposal: Any) -> str:
        return str(HeadList.of([proposal["value"]]).check(*self._exploration.size)[0])

    @traitlets.validate("question")
    def _check_question(self, proposal: Any) -> int:
        if not 0 <= proposal["value"] < len(self.questions):
            raise HeadError(f"question {proposal['value']} isn't here; there are {len(self.questions)}, counted from 0")
        return proposal["value"]

    def _hear(self, _: Any, message: dict[str, Any], buffers: Any) -> None:
        """A click on a button; what is wrong with it is told on the page."""
        wanted = message.get("do")
        act = {"zero": self.zero, "knockout": self.knockout, "sweep": self.sweep, "stop": self.stop}.get(str(wanted))
        try:
            if wanted == "scale":
                self.scale(float(message.get("factor", "nan")))
            elif act is not None:
                act()
        except (NasaInterpError, ValueError, TypeError) as error:
            self._tell(error)

    def _show_view(self, _: Any = None) -> None:
        """Puts the shown head on the shown prompt on the page."""
        if not self.shown:
            return
        shown = self._exploration.shown(self.question, self.shown)
        orders = [{**prompt.prompt_content(), **prompt.head_content(self.shown)} for prompt in shown]
        self.view = {"head": self.shown, "question": shown[0].question, "orders": orders}

    def _show_tables(self) -> None:
        tables = self._exploration.tables()
        self.grids = [grid for table in tables.values() for grid in grids_of(table)]
        names = [grid["name"] for grid in self.grids]
        if self.column not in names:
            self.column = "polarity" if "polarity" in names else names[0] if names else ""

    def _show_task(self, task: dict[str, Any]) -> None:
        self.task = task

    def _tell(self, error: Exception) -> None:
        self.note = first_line(error)

    def _sweeping(self) -> Iterator[Step]:
        for step in self._exploration.sweeping():
            self._show_tables()
            if self._exploration.sweep is not None:
                self.column = self._exploration.sweep.quantity
            yield step

    def _intervene(self, what: Intervention) -> None:
        self.note = ""
        heads = self.heads if self.chosen else HeadList.of([self.shown] if self.shown else [])
        if not len(heads):
            raise ModelError("no head to change; click one first")
        self._work.start("asking again", self._intervening(heads, what))

    def _intervening(self, heads: HeadList, what: Intervention) -> Iterator[Step]:
        question, self._effects = self.questions[self.question]["text"], []
        found = self._effects
        for step in self._exploration.intervening(heads, what, self.question, found):
            whole = joined(found[1:]) if step.done == step.total else None
            self.effect = effect_content(question, found, whole)
            yield step


def explore(
    model: Any,
    data: Any,
    *,
    scores: HeadScores | None = None,
    effects: HeadTable | None = None,
    style: PromptStyle | None = None,
    limit: int | None = 16,
    seed: int = 0,
) -> Explorer:
    """Opens heads to clicking in a notebook: heat map, one head on one prompt, a list of heads, and what they do.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        data: questions, or a data specification.
        scores: of this model, if they are known already, also on other questions; else they are computed, with a bar.
        effects: what `sweep_heads` gave, if it is known already.
        style: wording and candidates.
        limit: explore so many questions only, drawn evenly from the groups; None takes all.
        seed: of the draw and of the bootstrap.

    Returns:
        The widget; `explorer.heads` is the list of heads, both ways. In a notebook long work runs between the messages
        of the kernel, shows a bar and can be stopped; in plain Python it is done when the call returns.

    Raises:
        HeadError: scores or effects of a model of another size.

    Source: ours.
    """
    exploration = Exploration(model, data, style, limit, seed)
    for table in (scores, effects):
        if table is not None and table.shape != exploration.size:
            raise HeadError(
                f"the table holds {table.shape} layers and heads, the model has {exploration.size}; score this model"
            )
    exploration.scores, exploration.sweep = scores, effects
    return Explorer(exploration)
