"""What a change of heads gained and what it cost: every measure with and without it, question by question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..bootstrap import DRAWS
from ..decisions import BinaryReport, report_decisions
from ..deltas.delta import HeadDelta
from ..models import Model, as_model
from ..prompts import PromptStyle
from ..questions import QuestionList
from ..questions.resolve import resolve_questions
from ..session import PromptSet
from ..torch_defaults import under_torch_defaults
from .change_report import ChangeReport
from .generation import GenerationReport, decide_by_generation
from .options import FourOptions, OptionReport, answer_options
from .paired import Paired
from .text import TextReference

OTHER_INSTRUCTION = "Read what follows and decide. Reply with one word, {first} or {second}."
OTHER_WORDS = (("True", "False"), ("Correct", "Incorrect"))


@under_torch_defaults
def evaluate_change(
    model: Any,
    delta: HeadDelta,
    data: Any = "builtin:verify#test",
    *,
    groups: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    texts: Sequence[str] | None = None,
    items: Sequence[FourOptions] | None = None,
    style: PromptStyle | None = None,
    styles: Mapping[str, PromptStyle] | None = None,
    generation: int = 48,
    progress: bool = True,
) -> ChangeReport:
    """Measures a model without and with a change of heads, on questions that had no part in making it.

    Args:
        model: the base model, as for `HeadDelta.apply`; it is left as it was.
        delta: the change.
        data: questions, or a data specification.
        groups: the groups over which recovered accuracy is pooled: `groups_above_chance` of a report on validation
            questions, never chosen on these; all where empty.
        limit, seed, draws: as for `decide`.
        texts: plain text to read; None takes `plain_text("test")`.
        items: four-option questions; None takes the built-in ones.
        style: the style of the prompts that the change was made for.
        styles: other styles to ask in, by name; None takes `unseen_styles(style)`, an empty mapping takes none.
        generation: how many questions are answered in free text too (in both orders); 0 asks none.
        progress: show bars.

    Returns:
        Every measure before and after. An empty change gives exactly the same numbers.

    Raises:
        DeltaError: a change of another model. ResultError: a group without questions. QuestionError, PromptError,
        ModelError: as `decide`.

    Source: which abilities to look at is ours; the paper reports that general abilities stay.
    """
    model, style = as_model(model), style or PromptStyle()
    questions = resolve_questions(data, limit, seed)
    all_styles = {"": style, **(unseen_styles(style) if styles is None else styles)}
    measuring = _Measuring(
        model, questions, all_styles, tuple(items) if items else None, generation, seed, draws, progress
    )
    reference = TextReference.of(model, texts, progress=progress)
    before = measuring.measure()
    Paired(before.decided[""], tuple(groups))  # an unknown group fails here, before the long part
    with delta.applied(model):
        after = measuring.measure()
        text = reference.compare(model, seed=seed, draws=draws, progress=progress)
    reports = {name: (before.decided[name], after.decided[name]) for name in all_styles}
    decided = reports.pop("")
    generated = None if before.generated is None or after.generated is None else (before.generated, after.generated)
    return ChangeReport(*decided, tuple(groups), text, (before.options, after.options), generated, reports)


def unseen_styles(style: PromptStyle) -> dict[str, PromptStyle]:
    """Another instruction with the same candidates, and the same questions with other candidate words."""
    yes, no = next(words for words in OTHER_WORDS if style.yes not in words)
    own = all("{first}" in text for text in style.instructions)
    return {
        "other instruction": replace(style, instruction=OTHER_INSTRUCTION),
        f"{yes} or {no}": replace(
            style, yes=yes, no=no, instruction=style.instruction if own else PromptStyle().instruction
        ),
    }


class _Measured(NamedTuple):
    """The measures of the model in one state."""

    decided: dict[str, BinaryReport]
    options: OptionReport
    generated: GenerationReport | None


@dataclass(frozen=True)
class _Measuring:
    """What is asked before and after."""

    model: Model
    questions: QuestionList
    styles: Mapping[str, PromptStyle]
    items: tuple[FourOptions, ...] | None
    generation: int
    seed: int
    draws: int
    progress: bool

    def measure(self) -> _Measured:
        digest = self.model.weights_hash()
        decided = {name: self._decide(style, digest) for name, style in self.styles.items()}
        common = {"seed": self.seed, "progress": self.progress}
        options = answer_options(self.model, self.items, draws=self.draws, **common)
        generated = None
        if self.generation:
            first = next(iter(self.styles.values()))
            generated = decide_by_generation(self.model, self.questions, style=first, limit=self.generation, **common)
        return _Measured(decided, options, generated)

    def _decide(self, style: PromptStyle, digest: str) -> BinaryReport:
        asked = PromptSet.build(self.model, self.questions, "both", style, self.seed, self.draws)
        return report_decisions(self.model, asked, progress=self.progress, model_hash=digest)
