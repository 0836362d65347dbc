"""Scoring every head of a model on a set of questions."""

import time
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from ..bootstrap import DRAWS
from ..errors import FusedRefusedError, ModelError, PromptError, warn_user
from ..models import Model, as_model
from ..prompts import Orders, PromptBatch, PromptStyle
from ..session import PromptSet, describe_run, resolve_prompts
from ..torch_defaults import under_torch_defaults
from .engine import Choice, Engine, choose_engine, hooked_instead
from .fused import score_fused
from .hooked import score_hooked
from .scores import HeadScores

# Patterns are materialized there, so batches stay small.
HOOKED_BATCH = 16


@under_torch_defaults
def score_heads(
    model: Any,
    data: Any,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    engine: Engine = "auto",
    per: Literal["prompt", "query"] = "prompt",
    limit: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> HeadScores:
    """The negative attention score (NAS) of every head, averaged over the questions.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        data: questions, a data specification such as "builtin:verify#probe", or prompts, which keep order and style.
        order: with both candidate orders the scores part into polarity and recency; with one they can't.
        style: wording and candidates.
        engine: "fused", "hooked", or "auto": fused where it is exact for the architecture, else hooked, with a
            warning that says why. The two are checked against each other on a sample at the start of each run.
        per: "prompt" sums over a prompt's queries as the paper does; "query" divides by their number, so that long
            questions weigh no more than short ones.
        limit: score so many questions only, drawn evenly from the groups.
        batch_size: prompts a forward pass, by default from a memory estimate; changes time and memory alone.
        seed, draws: of the draw under `limit` and of the bootstrap.
        progress: show a bar.

    Returns:
        The scores with intervals and each prompt's own, of the model as it is now.

    Raises:
        PromptError: where the only queries behind the candidates are the template's own.

    Source: the paper, section on NAS; both orders and `per="query"` are ours.
    """
    start, model, unit = time.perf_counter(), as_model(model), unit_of(per)
    asked = resolve_prompts(model, data, order, style, limit, seed, draws)
    check_defined(asked)
    choice = choose_engine(model, asked.batches[0], engine)
    scored = score_chunk(model, asked, choice, per, batch_size, engine == "fused", progress)
    run = describe_run(model, asked, start, scored.engine, scored.notes)
    return HeadScores.from_prompts(scored.per_prompt, asked.questions, run, unit=unit)


def unit_of(per: str) -> str:
    """The unit of scores; raises ModelError for another `per` than "prompt" and "query"."""
    if per not in ("prompt", "query"):
        raise ModelError(f"per={per!r} is unknown; use 'prompt' or 'query'")
    return "nats, summed over queries" if per == "prompt" else "nats a query"


def check_defined(asked: PromptSet) -> None:
    """Raises PromptError where the only queries behind the candidates are the template's own."""
    if asked.batches[0].template_only:
        raise PromptError(
            "nothing but the template's own tokens follows the candidates, so NAS isn't defined for this form; put the "
            "instruction before the question"
        )


def score_chunk(
    model: Model,
    asked: PromptSet,
    choice: Choice,
    per: str,
    batch_size: int | None = None,
    fused_only: bool = False,
    progress: bool = False,
) -> "Scored":
    """The scores of every prompt by the chosen engine, or, where the fused one refuses, by the other.

    Raises:
        FusedRefusedError: with `fused_only`, where that engine refuses.
    """
    try:
        scored = _score_orders(model, asked, choice, per, batch_size, progress)
    except FusedRefusedError as refusal:
        if fused_only:
            raise
        choice = hooked_instead(refusal)
        scored = _score_orders(model, asked, choice, per, batch_size, progress)
    if choice.engine == "hooked" and choice.note:
        warn_user(choice.note)
    return scored


class Scored(NamedTuple):
    """The scores of every prompt in each order, and what the user should know of how they came about."""

    per_prompt: dict[str, Float[np.ndarray, "prompt layer head"]]
    engine: str
    notes: tuple[str, ...]


def _score_orders(
    model: Model, asked: PromptSet, choice: Choice, per: str, batch_size: int | None, progress: bool
) -> Scored:
    """The scores of every prompt, in each order; one of them is held to the plain model."""
    compared = asked.compared_order
    found = {
        prompts.order: _score(model, prompts, choice, per, batch_size, progress, prompts.order == compared)
        for prompts in sorted(asked, key=lambda prompts: prompts.order != compared)
    }
    scores = {order: found[order][0] for order in asked.orders}
    queries = sum(float(prompts.n_queries.sum()) for prompts in asked)
    hidden = 1 - np.sum([counts for _, counts in found.values()], axis=0) / queries
    return Scored(scores, choice.engine, tuple(note for note in (choice.note, hidden_note(hidden)) if note))


# In the note on queries that don't count, so that others find it among a run's notes.
LEFT_OUT = "left out of NAS"


def hidden_note(hidden: Float[np.ndarray, " layer"]) -> str:
    """Which layers hide a candidate from some queries, and from how many, where there are any.

    Args:
        hidden: the share of each layer's queries behind the instruction that don't see both candidates.
    """
    layers = np.flatnonzero(hidden > 0)
    if not len(layers):
        return ""
    least, most = (f"{100 * share:.0f}%" for share in (hidden[layers].min(), hidden[layers].max()))
    share = most if least == most else f"{least} to {most}"
    return (
        f"in {len(layers)} of {len(hidden)} layers (the first: {layers[0]}) {share} of the queries don't see a "
        f"candidate, which a sliding window hides from them; they are {LEFT_OUT}"
    )


def _score(
    model: Model,
    prompts: PromptBatch,
    choice: Choice,
    per: str,
    batch_size: int | None,
    progress: bool,
    reference: bool,
) -> tuple[Float[np.ndarray, "prompt layer head"], Float[np.ndarray, " layer"]]:
    """The scores, and how many queries counted in each layer."""
    if choice.engine == "fused":
        scores, counts = score_fused(model, prompts, batch_size, progress, reference=reference)
    else:
        scores, counts = score_hooked(model, prompts, batch_size or HOOKED_BATCH, progress)
    if bool((scores.isnan() & (counts > 0)[..., None]).any()):
        raise ModelError(f"{model.name}: scores are no numbers in {model.dtype}; load the model in float32")
    scores = scores / counts[:, :, None] if per == "query" else scores
    return scores.to(torch.float32).numpy(), counts.double().sum(0).numpy()
