"""Scoring every head of a model on a set of questions."""

import time
import warnings
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from ..bootstrap import DRAWS
from ..errors import ModelError
from ..models import Model, as_model
from ..prompts import Orders, PromptBatch, PromptStyle
from ..session import describe_run, prompts_in_orders, remembered, resolve_questions
from .engine import Choice, Engine, choose_engine
from .fused import score_fused
from .hooked import score_hooked
from .scores import HeadScores

# Patterns are materialized there, so batches stay small.
HOOKED_BATCH = 16


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
        data: questions, or a data specification such as "builtin:verify#probe".
        order: with both candidate orders the scores part into polarity and order; with one they can't.
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
        The scores with intervals and each prompt's own. Asked the same again in one session, they come from memory.

    Source: the paper, section on NAS; both orders and `per="query"` are ours.
    """
    model = as_model(model)
    if per not in ("prompt", "query"):
        raise ModelError(f"per={per!r} is unknown; use 'prompt' or 'query'")
    questions = resolve_questions(data, limit, seed)
    batches = prompts_in_orders(model, questions, order, style)
    choice = choose_engine(model, batches[0], engine)
    if choice.engine == "hooked" and choice.note:
        warnings.warn(choice.note, stacklevel=2)

    def compute(digest: str) -> HeadScores:
        start = time.perf_counter()
        per_prompt = {prompts.order: _score(model, prompts, choice, per, batch_size, progress) for prompts in batches}
        notes = (choice.note,) if choice.note else ()
        run = describe_run(model, questions, batches, style, seed, draws, start, choice.engine, notes, digest)
        unit = "nats, summed over queries" if per == "prompt" else "nats a query"
        return HeadScores.from_prompts(per_prompt, questions, run, unit, draws)

    return remembered(model, "score", batches, (questions.name, style, choice.engine, per, seed, draws), compute)


def _score(
    model: Model, prompts: PromptBatch, choice: Choice, per: str, batch_size: int | None, progress: bool
) -> Float[np.ndarray, "prompt layer head"]:
    if choice.engine == "fused":
        scores, counts = score_fused(model, prompts, batch_size, progress)
    else:
        scores, counts = score_hooked(model, prompts, batch_size or HOOKED_BATCH, progress)
    if bool((scores.isnan() & (counts > 0)[..., None]).any()):
        raise ModelError(f"{model.name}: scores are no numbers in {model.dtype}; load the model in float32")
    return (scores / counts[:, :, None] if per == "query" else scores).to(torch.float32).numpy()
