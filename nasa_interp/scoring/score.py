"""Scoring every head of a model on a set of questions."""

import time
from typing import Any, Literal

import numpy as np
import torch

from ..bootstrap import DRAWS
from ..errors import ModelError
from ..models import as_model
from ..prompts import ORDERS, Order, PromptStyle, build_prompts
from ..session import describe_run, resolve_questions
from .hooked import score_hooked
from .scores import HeadScores

Engine = Literal["auto", "hooked"]


def score_heads(
    model: Any,
    data: Any,
    order: Literal["both", "yes_no", "no_yes"] = "both",
    style: PromptStyle | None = None,
    *,
    engine: Engine = "auto",
    per: Literal["prompt", "query"] = "prompt",
    limit: int | None = None,
    batch_size: int = 16,
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
        engine: what computes it; "auto" takes the fastest that is exact for the architecture.
        per: "prompt" sums over a prompt's queries as the paper does; "query" divides by their number, so that long
            questions weigh no more than short ones.
        limit: score so many questions only, drawn evenly from the groups.
        batch_size: prompts a forward pass; changes time and memory alone.
        seed, draws: of the draw under `limit` and of the bootstrap.
        progress: show a bar.

    Returns:
        The scores with intervals and each prompt's own.

    Source: the paper, section on NAS; both orders and `per="query"` are ours.
    """
    model = as_model(model)
    if engine not in ("auto", "hooked"):
        raise ModelError(f"engine {engine!r} is unknown; use 'auto' or 'hooked'")
    if per not in ("prompt", "query"):
        raise ModelError(f"per={per!r} is unknown; use 'prompt' or 'query'")
    questions = resolve_questions(data, limit, seed)
    start = time.perf_counter()
    per_prompt: dict[Order, np.ndarray] = {}
    for each in ORDERS if order == "both" else (order,):
        prompts = build_prompts(model, questions, each, style)
        scores, counts = score_hooked(model, prompts, batch_size, progress)
        if per == "query":
            scores = scores / counts[:, :, None]
        per_prompt[each] = scores.to(torch.float32).numpy()
    run = describe_run(model, questions, tuple(per_prompt), prompts, style, seed, draws, start, "hooked")
    unit = "nats, summed over queries" if per == "prompt" else "nats a query"
    return HeadScores.from_prompts(per_prompt, questions, run, unit, draws)
