"""What an alignment is about: model, heads, questions and recipe, checked before anything is computed."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ..forward import intervenable
from ..heads import HeadList
from ..models import Model
from ..models.slices import WeightSlice
from ..models.tunable import spanning_norms, tunable_slices
from ..prompts import PromptStyle
from ..questions import check_apart, check_labeled, check_two_sided
from ..questions.resolve import resolve_questions
from ..run import digest_of
from ..session import PromptSet
from .recipe import Limits, Recipe
from .trainer import steps_in_bfloat16


@dataclass(frozen=True)
class Setting:
    """What is tuned, on what, and how: everything checked before anything is computed."""

    model: Model
    heads: HeadList
    slices: tuple[WeightSlice, ...]
    probe: PromptSet = field(repr=False)
    val: PromptSet = field(repr=False)
    recipe: Recipe
    limits: Limits
    style: PromptStyle | None
    seed: int
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
        """Resolves and checks heads, questions and prompts, and chooses the objective where none was named."""
        chosen = HeadList.of(heads)
        slices = tunable_slices(model, chosen, recipe.projections, recipe.bias, recipe.share)
        probe, val = resolve_questions(probe), resolve_questions(val)
        check_apart(probe, val, "to tune on", "validate on")
        probe = resolve_questions(probe, recipe.probe_questions, seed)
        val = resolve_questions(val, recipe.val_questions, seed)
        recipe = recipe.resolved(labeled=probe[0].label is not None)
        if "labels" in recipe.loss().reads:
            check_labeled(probe, "tune on")
        for questions, use in ((probe, "tune on"), (val, "validate on")):
            if questions[0].label is not None:
                check_two_sided(questions, use)
        to_tune, to_validate = (PromptSet.build(model, q, "both", style, seed, draws=0) for q in (probe, val))
        # What is kept is decided by validation, which is never rounded more than the weights are.
        model = intervenable(model.exact(), to_tune.batches[0])
        recipe = replace(recipe, mixed_precision=steps_in_bfloat16(model, recipe))
        spanned = spanning_norms(model, chosen)
        notes = (f"norms span all heads in layers {list(spanned)}: tuned queries scale other heads",) if spanned else ()
        if style is not None and style.think:
            notes = (*notes, "tuned and validated behind the untuned model's thoughts")
        return cls(model, chosen, slices, to_tune, to_validate, recipe, limits, style, seed, notes)

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        digests = [digest_of(questions) for questions in (self.probe.questions, self.val.questions)]
        style, state = (self.style or PromptStyle()).to_dict(), list(self.model.state_notes())
        return {**self.to_dict(), "questions": digests, "style": style, "state": state}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model.name,
            "heads": [str(head) for head in self.heads],
            "by": self.heads.by,
            "probe": self.probe.questions.name,
            "val": self.val.questions.name,
            "n_probe": len(self.probe.questions),
            "n_val": len(self.val.questions),
            "recipe": self.recipe.to_dict(),
            "limits": self.limits.to_dict(),
            "seed": self.seed,
        }
