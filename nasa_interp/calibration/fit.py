"""Fits a calibration on decisions whose right answers nobody need know."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from ..bootstrap import DRAWS, cluster_interval
from ..decisions import BinaryReport, ServedDecisions, decide_served, report_decisions
from ..errors import CalibrationError, warn_user
from ..models import as_model
from ..prompts import Order, Orders, PromptBatch, PromptStyle
from ..questions.registry import CONTENT_FREE
from ..served import ServedModel
from ..session import resolve_prompts
from ..torch_defaults import under_torch_defaults
from .value import Calibration

Fit = Literal["mean", "quantile"]
FITS: tuple[Fit, ...] = get_args(Fit)
# Under so many questions, or with labels so far off the prior, a reader is told.
FEW, OFF_PRIOR = 32, 0.1


@under_torch_defaults
def calibrate(
    model: Any,
    data: Any,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    prior: float = 0.5,
    by: Fit = "mean",
    limit: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> Calibration:
    """Finds how far the model leans, from questions without labels: the d at which yes is said as often as expected.

    Args:
        model, order, limit, batch_size, seed, draws, progress: as for `decide`.
        data: questions in the wording that will be used, labeled or not; labels only test the prior. The name
            "builtin:content-free" asks content-free texts in place of questions (Zhao et al. 2021).
        style: one wording and its candidates; a calibration holds for no other.
        prior: how often yes is expected to be right among such questions, between 0 and 1.
        by: "mean": the mean of d (plus as many of its standard deviations as the prior is off a half); "quantile": the
            d under which a share of `prior` of the decisions lies.

    Returns:
        The offsets, one a candidate order; `report.calibrated(c)`, `c.processor` and `c.logit_bias` take them off.

    Raises:
        CalibrationError: a prior outside (0, 1), one question alone or all alike, several instructions that take turns.

    Source: ours; calibration by the batch's own mean follows Zhou et al. 2024 (batch calibration).
    """
    _check(prior, by, style)
    if isinstance(model, ServedModel):
        options: dict[str, Any] = {"limit": limit, "seed": seed, "draws": draws, "progress": progress}
        found = decide_served(model, data, order, style, **options)
        return fit_calibration(found.report, found, prior=prior, by=by)
    model = as_model(model)
    asked = resolve_prompts(model, data, order, style, limit, seed, draws)
    _check(prior, by, asked.batches[0].style)
    report = report_decisions(model, asked, batch_size=batch_size, progress=progress)
    return fit_calibration(report, asked.batches[0], prior=prior, by=by)


def fit_calibration(
    report: BinaryReport, prompts: PromptBatch | ServedDecisions, *, prior: float = 0.5, by: Fit = "mean"
) -> Calibration:
    """The calibration that decisions ask for.

    Args:
        report: the decisions; labels only test the prior.
        prompts: of any candidate order, for the tokens that answers begin with; or what a server gave of those.
        prior, by: as for `calibrate`.

    Raises:
        CalibrationError: a prior outside (0, 1), one question alone or all alike.
    """
    _check(prior, by, prompts.style)
    if report.run.data != CONTENT_FREE:
        _check_questions(report, prior)
    offsets: dict[Order, float] = {}
    ends: dict[Order, tuple[float, float]] = {}
    orders = np.array(report.order)
    for order in dict.fromkeys(report.order):
        rows = orders == order
        d, weights = report.logit_differences[rows], report.weights[:, rows]
        # fp32 like the logits themselves, so that d less the offset is exact and no two decisions become one.
        offsets[order] = float(np.float32(offset_of(d, np.ones((1, len(d))), prior, by)[0]))
        first, last = cluster_interval(offset_of(d, weights, prior, by), report.clusters[rows])
        ends[order] = float(first), float(last)
    low: dict[Order, float] = {order: pair[0] for order, pair in ends.items()}
    high: dict[Order, float] = {order: pair[1] for order, pair in ends.items()}
    tokens = prompts.yes_variants, prompts.no_variants, prompts.shared
    return Calibration(offsets, low, high, prior, by, *tokens, run=report.run)


def offset_of(
    d: Float[np.ndarray, " question"], weights: Float[np.ndarray, "draw question"], prior: float, by: Fit
) -> Float[np.ndarray, " draw"]:
    """What to take off d so that a share of `prior` of the questions gets a Yes, for each row of weights.

    By the mean, d is taken to be normal where the prior isn't a half.
    """
    w = weights.astype(np.float64)
    if by == "mean":
        mean = w @ d / w.sum(1)
        spread = np.sqrt(np.maximum(w @ d**2 / w.sum(1) - mean**2, 0.0))
        return mean + spread * norm.ppf(prior)
    order = np.argsort(d, kind="stable")
    d, w = d[order], w[:, order]
    # Each decision stands at the middle of its own weight.
    places = (np.cumsum(w, axis=1) - w / 2) / w.sum(1, keepdims=True)
    return np.array([np.interp(prior, p[row > 0], d[row > 0]) for p, row in zip(places, w, strict=True)])


def _check(prior: float, by: str, style: PromptStyle | None) -> None:
    if not 0 < prior < 1:
        raise CalibrationError(f"a prior of {prior} is no rate between 0 and 1; say how often yes is right")
    if by not in FITS:
        raise CalibrationError(f"offsets can't be fitted by {by!r}; use one of {', '.join(FITS)}")
    if style is not None and len(style.instructions) > 1:
        raise CalibrationError(
            f"a calibration holds for one wording, and {len(style.instructions)} instructions take turns here; "
            f"calibrate each by itself"
        )


def _check_questions(report: BinaryReport, prior: float) -> None:
    """Refuses questions that can't tell an offset, and warns of few or one-sided ones."""
    texts = {q.asked for q in report.questions}
    if len(texts) < 2 or len(set(report.clusters.tolist())) < 2:
        raise CalibrationError(
            f"{report.run.data} asks one question, or one pair of twins, over and over; calibrate on many different "
            f"questions, {FEW} or more"
        )
    spread: Mapping[str, float] = {
        order: float(np.ptp(report.logit_differences[np.array(report.order) == order])) for order in report.orders
    }
    if not min(spread.values()) > 0:
        raise CalibrationError(
            f"all questions of {report.run.data} get the same decision to the last bit, so that nothing tells an "
            f"offset; is the question in the prompt?"
        )
    if len(texts) < FEW:
        warn_user(f"calibrated on {len(texts)} questions only: the offset is rough; take {FEW} or more")
    if report.label is not None and abs(report.overall.base_rate - prior) > OFF_PRIOR:
        warn_user(
            f"yes is right for {report.overall.base_rate:.0%} of {report.run.data}, and the calibration expects "
            f"{prior:.0%}: answers would lean the other way; give prior={report.overall.base_rate:.2f}, or balanced "
            f"questions"
        )
