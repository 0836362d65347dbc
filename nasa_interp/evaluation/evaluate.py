"""What a change of heads gained and what it cost: every measure with and without it, question by question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..bootstrap import DRAWS
from ..decisions import BinaryReport, report_decisions
from ..decisions.asking import PLAIN_NOTE
from ..deltas.delta import HeadDelta
from ..errors import QuestionError, ResultError
from ..models import Model, as_model
from ..prompts import ORDERS, PromptStyle
from ..questions import QuestionList
from ..questions.resolve import resolve_questions
from ..run import RunInfo
from ..session import PromptSet, describe_run
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
    carried: int | None = None,
    generation: int = 48,
    progress: bool = True,
) -> ChangeReport:
    """Measures a model without and with a change of heads, on questions that had no part in making it.

    Args:
        model: the base model, as for `HeadDelta.apply`; it is left as it was.
        delta: the change.
        data: questions, or a data specification, or the base model's report on them in both orders and this style,
            which then isn't asked again.
        groups: the groups over which recovered accuracy is pooled: `groups_above_chance` of a report on validation
            questions, never chosen on these; all where empty.
        limit, seed, draws: as for `decide`; no limit with a report.
        texts: plain text to read; None takes `plain_text("test")`.
        items: four-option questions; None takes the built-in ones.
        style: the style of the prompts that the change was made for.
        styles: other styles to ask in, by name; None takes `unseen_styles(style)`, an empty mapping takes none.
        carried: how many questions are asked in other styles; None asks all.
        generation: how many questions are answered in free text too (in both orders); 0 asks none.
        progress: show bars.

    Returns:
        Every measure before and after. An empty change gives exactly the same numbers.

    Raises:
        DeltaError: a change of another model. ResultError: a group without questions, or a report that deciding now
        would not give. QuestionError, PromptError,
        ModelError: as `decide`.

    Source: which abilities to look at is ours; the paper reports that general abilities stay.
    """
    model, style = as_model(model), style or PromptStyle()
    known = data if isinstance(data, BinaryReport) else None
    questions = resolve_questions(data, limit, seed) if known is None else _asked_in(known, limit)
    fewer = questions if carried is None else resolve_questions(questions, carried, seed)

    others = unseen_styles(style) if styles is None else styles
    asked = {"": (questions, style), **{name: (fewer, other) for name, other in others.items()}}
    measuring = _Measuring(model, asked, tuple(items) if items else None, generation, seed, draws, progress)
    if known is not None:
        _check_alike(known, describe_run(model, measuring.prompts(""), 0.0, deciding=True))
    reference = TextReference.of(model, texts, progress=progress)
    before = measuring.measure(known)
    Paired(before.decided[""], tuple(groups))  # an unknown group fails here, before the long part
    with delta.applied(model):
        after = measuring.measure()
        text = reference.compare(model, seed=seed, draws=draws, progress=progress)
    reports = {name: (before.decided[name], after.decided[name]) for name in asked}
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


def _asked_in(report: BinaryReport, limit: int | None) -> QuestionList:
    """The questions of a report in both orders."""
    n = len(report.questions) // 2
    if limit is not None:
        raise QuestionError(f"a limit of {limit} doesn't apply to decisions that are made already; decide on fewer")
    if report.orders.keys() != set(ORDERS) or report.questions[:n] != report.questions[n:]:
        raise ResultError("the report isn't on the same questions in both orders; decide with order='both'")
    return QuestionList(report.questions[:n], report.run.data)


def _check_alike(report: BinaryReport, run: RunInfo) -> None:
    """Raises ResultError where deciding now would not give these decisions."""
    told = [note for note in report.run.notes if not note.startswith(PLAIN_NOTE)]
    pairs = {
        "model": (report.run.model_hash, run.model_hash), "wording": (report.run.template, run.template),
        "dtype": (report.run.dtype, run.dtype), "notes": (sorted(told), sorted(run.notes)),
    }  # fmt: skip
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ResultError(
                f"the report was made with another {name} ({theirs}) than it would be now ({ours}); decide again with "
                f"the base model as it is, in the style of the change, and take no offset off"
            )


class _Measured(NamedTuple):
    """The measures of the model in one state."""

    decided: dict[str, BinaryReport]
    options: OptionReport
    generated: GenerationReport | None


@dataclass(frozen=True)
class _Measuring:
    """What is asked before and after."""

    model: Model
    asked: Mapping[str, tuple[QuestionList, PromptStyle]]
    items: tuple[FourOptions, ...] | None
    generation: int
    seed: int
    draws: int
    progress: bool

    def measure(self, known: BinaryReport | None = None) -> _Measured:
        """All measures; `known` are the decisions in the own style, where they are made already."""
        digest = self.model.weights_hash()
        decided = {} if known is None else {"": known}
        decided |= {name: self._decide(name, digest) for name in self.asked if name not in decided}
        common = {"seed": self.seed, "progress": self.progress}
        options = answer_options(self.model, self.items, draws=self.draws, **common)
        generated = None
        if self.generation:
            data, style = self.asked[""]
            generated = decide_by_generation(self.model, data, style=style, limit=self.generation, **common)
        return _Measured(decided, options, generated)

    def prompts(self, name: str) -> PromptSet:
        """The prompts in one style; where the model thinks first, it does so as it is now."""
        questions, style = self.asked[name]
        return PromptSet.build(self.model, questions, "both", style, self.seed, self.draws)

    def _decide(self, name: str, digest: str) -> BinaryReport:
        return report_decisions(self.model, self.prompts(name), progress=self.progress, model_hash=digest)
