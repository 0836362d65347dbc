"""What an alignment is about: model, heads, questions and recipe, checked before anything is computed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import ModelError, QuestionError
from ..forward import fused_refusal
from ..heads import HeadList
from ..models import Model
from ..models.slices import WeightSlice
from ..prompts import PromptBatch, PromptStyle
from ..questions import QuestionList, check_apart
from ..questions.resolve import resolve_questions
from ..run import digest_of
from ..session import prompts_in_orders
from .recipe import Limits, Recipe
from .tuned import spanning_norms, tunable_slices


@dataclass(frozen=True)
class Setting:
    """What is tuned, on what, and how: everything checked before anything is computed."""

    model: Model
    heads: HeadList
    slices: tuple[WeightSlice, ...]
    probe: QuestionList
    val: QuestionList
    recipe: Recipe
    limits: Limits
    style: PromptStyle | None
    seed: int
    batches: list[PromptBatch] = field(repr=False)
    val_batches: list[PromptBatch] = field(repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        model: Model,
        heads: HeadList | Iterable[Any],
        probe: Any,
        val: Any,
        recipe: Recipe,
        limits: Limits,
        style: PromptStyle | None,
        seed: int,
    ) -> "Setting":
        """Resolves and checks heads, questions and prompts."""
        chosen = HeadList.of(heads)
        slices = tunable_slices(model, chosen, recipe.projections, recipe.bias, recipe.share)
        probe, val = resolve_questions(probe), resolve_questions(val)
        check_apart(probe, val, "to tune on", "validate on")
        probe = resolve_questions(probe, recipe.probe_questions, seed)
        val = resolve_questions(val, recipe.val_questions, seed)
        for questions, use in ((probe, "tune on"), (val, "validate on")):
            check_two_sided(questions, use)
        batches, val_batches = (prompts_in_orders(model, q, style=style) for q in (probe, val))
        if refusal := fused_refusal(model, batches[0]):
            raise ModelError(
                f"tuning runs on the fused engine, which refuses {model.name}: {refusal}; see `nasa-interp doctor`"
            )
        spanned = spanning_norms(model, chosen)
        notes = (f"norms span all heads in layers {list(spanned)}: tuned queries scale other heads",) if spanned else ()
        return cls(model, chosen, slices, probe, val, recipe, limits, style, seed, batches, val_batches, notes)

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        asked = [digest_of(questions) for questions in (self.probe, self.val)]
        state = list(self.model.state_notes())
        return {**self.to_dict(), "questions": asked, "style": (self.style or PromptStyle()).to_dict(), "state": state}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model.name,
            "heads": [str(head) for head in self.heads],
            "by": self.heads.by,
            "probe": self.probe.name,
            "val": self.val.name,
            "n_probe": len(self.probe),
            "n_val": len(self.val),
            "recipe": self.recipe.to_dict(),
            "limits": self.limits.to_dict(),
            "seed": self.seed,
        }


def check_two_sided(questions: QuestionList, use: str) -> None:
    """Raises QuestionError where all labels are the same."""
    if len({q.label for q in questions}) < 2:
        kind = "yes" if questions[0].label else "no"
        raise QuestionError(
            f"all {len(questions)} questions to {use} ({questions.name}) have the answer {kind}, so that always saying "
            f"{kind} would be best; add questions with the other answer"
        )
