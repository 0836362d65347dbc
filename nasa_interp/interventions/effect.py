"""What an intervention on chosen heads does to the decisions: paired with the model as it is, question by question."""

import html
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from ..bootstrap import DRAWS, cluster_interval
from ..decisions import LOW_MASS, BinaryReport, MeasuredDecisions, report_decisions
from ..errors import FusedRefusedError, ModelError, warn_user
from ..forward import EditsOf, intervenable
from ..heads import HeadList, Side
from ..measures import measure_draws
from ..models import as_model
from ..prompts import Orders, PromptStyle
from ..reference import check_plain
from ..results import write_result
from ..session import resolve_prompts
from ..torch_defaults import under_torch_defaults
from .values import Intervention, Zero, edits_of

MEASURES = (
    "mean_logit_difference",
    "imbalance",
    "yes_rate",
    "accuracy",
    "oracle_accuracy",
    "auc",
    "answer_mass",
    "auc_within_groups",
)
STEPS = (1, 2, 3, 5, 8, 13, 20, 40)


@dataclass(frozen=True, repr=False)
class AblationEffect:
    """The decisions with and without an intervention.

    Args:
        heads: the heads that were changed.
        intervention: what was done to them.
        base, changed: the decisions of the model as it is, and under the intervention; the same questions in the same
            order.
    """

    heads: HeadList
    intervention: Intervention
    base: MeasuredDecisions
    changed: MeasuredDecisions

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the changed decisions."""
        masses = np.stack([self.base.answer_masses, self.changed.answer_masses])
        # The means alone: a report's estimates would draw the bootstrap for every group.
        means = {g: masses[:, self.base.rows_of(g)].mean(1) for g in self.base.group_of.categories}
        fell = {g: pair for g, pair in means.items() if pair[1] < LOW_MASS <= pair[0]}
        if not fell:
            return []
        listed = ", ".join(f"{g} {was:.2f} to {now:.2f}" for g, (was, now) in fell.items())
        return [
            f"answer mass fell under {LOW_MASS} with the heads changed: {listed}. The model means to say something "
            f"else there than either candidate, so that its decisions say little about the bias."
        ]

    @cached_property
    def changes(self) -> pd.DataFrame:
        """For each measure: before, after, change, and the ends of the change's paired bootstrap interval (95%)."""
        return self.estimate()

    def estimate(self, order: str | None = None) -> pd.DataFrame:
        """The changes over both candidate orders, or in one.

        `auc` asks for one threshold over all the rows; `auc_within_groups` is the mean of the AUC within each group and
        order, where nothing shifts the threshold: what the model can tell apart.
        """
        points, draws = self.points(order), self.draws(order)
        clusters = self.base.clusters
        found = []
        for name, (before, after) in points.items():
            low, high = cluster_interval(draws[name], clusters)
            found.append((name, before, after, after - before, float(low), float(high)))
        return pd.DataFrame(found, columns=["measure", "before", "after", "change", "low", "high"]).set_index("measure")

    def points(self, order: str | None = None) -> dict[str, tuple[float, float]]:
        """Each measure before and after, without intervals: cheap enough for many random sets."""
        rows = self.base.rows_of(order=order)
        once = np.ones((1, int(rows.sum())), dtype=np.float32)
        before, after = (_measured(report, rows, once) for report in (self.base, self.changed))
        return {name: (float(before[name][0]), float(after[name][0])) for name in MEASURES}

    def draws(self, order: str | None = None) -> dict[str, Float[np.ndarray, " draw"]]:
        """Each measure's change in every bootstrap draw, before and after paired question by question."""
        rows = self.base.rows_of(order=order)

        def found(weights: Float[np.ndarray, "draw row"]) -> dict[str, Float[np.ndarray, " kept"]]:
            before, after = (_measured(report, rows, weights) for report in (self.base, self.changed))
            return {name: after[name] - before[name] for name in MEASURES}

        return self.base.drawn(rows, found)

    def change(self, name: str, order: str | None = None) -> float:
        """The change of one measure over both orders, or in one."""
        before, after = self.points(order)[name]
        return after - before

    @property
    def toward(self) -> Side:
        """To which answer these heads are held to push: what their list says, else what the model says too often."""
        return self.heads.toward if self.heads.toward in ("no", "yes") else self.base.toward  # type: ignore[return-value]

    mean_logit_difference_change = property(
        lambda self: self.change("mean_logit_difference"), doc="Below 0: the model moved toward Yes."
    )
    imbalance_change = property(lambda self: self.change("imbalance"), doc="Below 0: Yes is said more often.")
    auc_change = property(lambda self: self.change("auc"), doc="Below 0: the model sorts worse.")
    accuracy_change = property(lambda self: self.change("accuracy"), doc="Change of the rate of right decisions.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values: heads, intervention, changes over both orders and in each."""
        orders = dict.fromkeys(self.base.order)
        return {
            "kind": "ablation_effect",
            "heads": [str(head) for head in self.heads],
            "by": self.heads.by,
            "toward": self.toward,
            "intervention": repr(self.intervention),
            "changes": self.changes.to_dict(orient="index"),
            "orders": {order: self.estimate(order).to_dict(orient="index") for order in orders},
            "run": self.changed.run.to_dict(),
        }

    def save(self, path: str | Path) -> Path:
        """Writes JSON; raises as `write_result` does."""
        return write_result(path, self.to_dict())

    def __repr__(self) -> str:
        row = self.changes.loc["mean_logit_difference"]
        return (
            f"AblationEffect({self.intervention} on {len(self.heads)} heads: mean logit difference "
            f"{row.before:+.2f} -> {row.after:+.2f}, change {row.change:+.2f} [{row.low:+.2f}, {row.high:+.2f}], "
            f"AUC {self.changes.before['auc']:.2f} -> {self.changes.after['auc']:.2f})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.changes.to_html(float_format='%.3f')}"


def _measured(
    report: MeasuredDecisions, rows: Bool[np.ndarray, " decision"], weights: Float[np.ndarray, "draw row"]
) -> dict[str, Float[np.ndarray, " draw"]]:
    """All of `MEASURES` of these decisions, in each draw of their weights."""
    d, label, mass = report.logit_differences[rows], report.labels_of(rows), report.answer_masses[rows]
    orders, groups = np.array(report.order)[rows], report.group_of[rows]
    aucs = []
    for order in dict.fromkeys(orders.tolist()):
        for group in groups.categories:
            some = np.asarray(groups == group) & (orders == order)
            if some.any():
                few = None if label is None else label[some]
                aucs.append(measure_draws(d[some], few, mass[some], weights[:, some])["auc"])
    within, defined = np.array(aucs), ~np.isnan(aucs)
    with np.errstate(invalid="ignore"):
        mean = np.where(defined, within, 0.0).sum(0) / defined.sum(0)
    return {**measure_draws(d, label, mass, weights), "auc_within_groups": mean}


class Ablator:
    """Asks the same questions under one intervention after another; the model as it is is asked once.

    Args:
        model, data, order, style, limit, seed, draws: as for `decide`.

    Raises:
        ModelError: where fused attention isn't exact for the model, so that it can't be intervened on.
    """

    @under_torch_defaults
    def __init__(
        self,
        model: Any,
        data: Any,
        order: Orders = "both",
        style: PromptStyle | None = None,
        *,
        limit: int | None = None,
        seed: int = 0,
        draws: int = DRAWS,
        progress: bool = True,
    ):
        model, self.progress = as_model(model), progress
        self.asked = resolve_prompts(model, data, order, style, limit, seed, draws)
        self.model = intervenable(model, self.asked.batches[0])
        self._hash, self._state = self.model.weights_hash(), self.model.state_notes()
        try:
            self.base = self._report(None)
        except FusedRefusedError as refusal:
            raise ModelError(
                f"{self.model.name} can't be intervened on: {refusal}; see `nasa-interp doctor`"
            ) from refusal

    @under_torch_defaults
    def effect(self, heads: HeadList | Iterable[Any], intervention: Intervention | None = None) -> AblationEffect:
        """The effect on these heads; without heads, nothing changes.

        Raises:
            HeadError: where a head is outside the model.
            ModelError: where the model isn't the one that was asked as it was.
        """
        self.check_unchanged()
        return self.effect_of(heads, intervention)

    def check_unchanged(self) -> None:
        """Raises ModelError where the model isn't the one that was asked as it was.

        Told by weights, hooks and adapters, and by asking some prompts again, as a change may lie in none of these.
        """
        prompts = self.asked.batches[0]
        try:
            same = (self.model.weights_hash(), self.model.state_notes()) == (self._hash, self._state)
            check_plain(self.model, prompts, self.base.logit_differences[: len(prompts)])
        except FusedRefusedError:
            same = False
        if not same:
            raise ModelError(
                f"{self.model.name} was changed since it was asked as it was, so the two can't be compared; make a new "
                f"Ablator"
            )

    @under_torch_defaults
    def effect_of(self, heads: HeadList | Iterable[Any], intervention: Intervention | None = None) -> AblationEffect:
        """As `effect`, without `check_unchanged`, which reads all weights: for many sets of heads in a row."""
        chosen = HeadList.of(heads).check(self.model.n_layers, self.model.n_heads)
        what = intervention or Zero()
        names = ", ".join(str(head) for head in chosen)
        if not len(chosen):
            return AblationEffect(chosen, what, self.base, self.base)
        changed = self._report(edits_of(chosen, what))
        run = replace(changed.run, notes=(*changed.run.notes, f"{what} on {names}"))
        return AblationEffect(chosen, what, self.base, replace(changed, run=run))

    def _report(self, edits: EditsOf | None) -> BinaryReport:
        # The interventions leave the weights alone, so one hash serves all of them.
        options: dict[str, Any] = {"progress": self.progress, "fused_only": True, "model_hash": self._hash}
        return report_decisions(self.model, self.asked, edits=edits, **options)


def ablation_effect(
    model: Any,
    data: Any,
    heads: HeadList | Iterable[Any],
    intervention: Intervention | None = None,
    order: Orders = "both",
    style: PromptStyle | None = None,
    **options: Any,
) -> AblationEffect:
    """Changes the heads and asks again: how far does the answer move, and what does it cost in sorting power?

    Args:
        model: a Model, or what `load_model` accepts besides names.
        data: questions, or a data specification.
        heads: heads, pairs or names.
        intervention: `Zero()` by default.
        order, style: as for `decide`.
        options: `limit`, `seed`, `draws`, `progress`, as for `decide`.

    Returns:
        Change of the mean logit difference, imbalance, yes rate, accuracy, oracle accuracy, AUC (pooled, and within
        groups and orders) and answer mass, with paired bootstrap intervals. The model is left as it was.

    Source: the paper validates its heads by intervening on them; the measures and intervals are ours.
    """
    effect = Ablator(model, data, order, style, **options).effect_of(heads, intervention)
    for message in effect.warnings:
        warn_user(message)
    return effect


def cumulative_effect(
    model: Any, data: Any, heads: HeadList | Iterable[Any], intervention: Intervention | None = None, **options: Any
) -> pd.DataFrame:
    """The effect on the first k heads of a ranking, for k = 1, 2, 3, 5, 8, 13, 20, 40 as far as it goes.

    Returns:
        One row a k: change of each measure with its interval.
    """
    ranked = HeadList.of(heads)
    ablator = Ablator(model, data, **options)
    ks = [k for k in STEPS if k < len(ranked)] + ([len(ranked)] if len(ranked) and len(ranked) <= STEPS[-1] else [])
    rows = []
    for k in sorted(set(ks)):
        changes = ablator.effect_of(ranked[:k], intervention).changes
        flat = {
            f"{name}_{column}": changes.loc[name, column] for name in MEASURES for column in ("change", "low", "high")
        }
        rows.append({"k": k, **flat})
    return pd.DataFrame(rows)
