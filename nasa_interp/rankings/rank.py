"""All heads of a model, best first, by every ranking in the package."""

from dataclasses import replace
from typing import Any

import numpy as np

from ..attribution.direct import direct_logit_attribution
from ..attribution.estimates import estimate_zero_ablation
from ..bootstrap import DRAWS
from ..errors import ModelError
from ..head_table import ranked
from ..heads import HeadList, Side
from ..interventions.sweeps import sweep_heads
from ..models import Model, as_model
from ..prompts import PromptStyle
from ..questions.resolve import resolve_questions
from ..run import RunInfo
from ..scoring import score_heads


def rank_heads(
    model: Any,
    probe: Any,
    *,
    limit: int | None = None,
    sweep_limit: int | None = 32,
    style: PromptStyle | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
    toward: Side = "no",
) -> tuple[dict[str, HeadList], RunInfo]:
    """All heads of the model, best first, by every ranking of the contest; and the run that ranked them.

    "Best" is what should be behind a bias toward No: the highest score, the removal that moves d most toward Yes, the
    largest direct push toward No; with `toward="yes"` the other end of each, but of recency, whose side is its own. All
    rankings use both candidate orders but "values" (the paper's), which uses yes_no.

    Args:
        model, probe, limit, sweep_limit, style, seed, draws, progress: as for `ranking_contest`.
        toward: the answer that the model gives too often.
    """
    model = as_model(model)
    questions = resolve_questions(probe, limit, seed)
    options: dict[str, Any] = {"style": style, "seed": seed, "draws": draws, "progress": progress}
    scores, per_query = (score_heads(model, questions, per=per, **options) for per in ("prompt", "query"))
    rankings = {by: scores.ranking(by, toward=toward) for by in ("values", "polarity")}
    rankings["recency"] = scores.ranking("recency")
    rankings["polarity per query"] = replace(per_query.ranking("polarity", toward=toward), by="polarity per query")
    rankings["first-order zero"] = estimate_zero_ablation(model, questions, **options).ranking(toward=toward)
    notes: tuple[str, ...] = ()
    try:
        rankings["direct attribution"] = direct_logit_attribution(model, questions, **options).ranking(toward=toward)
    except ModelError as error:
        notes = (str(error),)
    exact = sweep_heads(model, questions, limit=sweep_limit, **options).ranking(toward=toward)
    rankings["exact ablation"] = replace(exact, by="exact ablation")
    return rankings, replace(scores.run, notes=(*scores.run.notes, *notes))


def random_rankings(model: Model, n: int, seed: int) -> tuple[HeadList, ...]:
    """n random orders of all heads; of one order, a longer set contains the shorter ones."""
    rng = np.random.default_rng(seed)
    grids = [rng.random((model.n_layers, model.n_heads)) for _ in range(n)]
    return tuple(replace(ranked(grid, "random", {}), scores=()) for grid in grids)
