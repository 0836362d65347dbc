"""What the model decides: the logits of both candidates at the first answer position."""

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from ..batches import equal_length
from ..bootstrap import DRAWS
from ..errors import DisagreementError, FusedRefusedError, ModelError, warn_user
from ..forward import EditsOf, run_fused
from ..models import Model, as_model
from ..prompts import Orders, PromptBatch, PromptStyle
from ..reference import PlainReference
from ..served import ServedModel
from ..session import PromptSet, describe_run, resolve_prompts
from ..torch_defaults import under_torch_defaults
from .asking_served import decide_served
from .report import BinaryReport

# Prompts in a batch of models that don't go through the fused engine.
PLAIN_BATCH = 16
# How the note of a run begins that fell back on plain passes.
PLAIN_NOTE = "decided by plain passes"


class Answered(NamedTuple):
    """The answer to each prompt at its first position.

    d = logit(No) - logit(Yes); the answer mass P(Yes) + P(No), the third candidate's with it where there is one;
    whether the third is likelier than both, None without one.
    """

    d: Float[np.ndarray, " prompt"]
    mass: Float[np.ndarray, " prompt"]
    unsure: Bool[np.ndarray, " prompt"] | None = None


@under_torch_defaults
def decide(
    model: Any,
    data: Any,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> BinaryReport:
    """Asks the model every question and compares its logits of No and Yes at the first answer position.

    Args:
        model: a Model, what `load_model` accepts besides names, or what `load_server` gives (see `decide_served`).
        data: questions (also dicts or a DataFrame with question and label), a data specification such as
            "builtin:verify#test", or prompts (a PromptBatch, or one an order), which keep their order and style.
        order: the order of the candidates in the instruction; both by default, as it matters as much as polarity.
        style: wording and candidates.
        limit: ask about so many questions only, drawn evenly from the groups.
        batch_size: prompts a forward pass, by default from a memory estimate; changes time and memory alone.
        seed, draws: of the draw under `limit` and of the bootstrap.
        progress: show a bar.

    Returns:
        The report, with all decisions in it. Each call asks the model as it is now, with the hooks and adapters on it.

    Source: the paper compares generated answers; the logit difference is ours.
    """
    if isinstance(model, ServedModel):
        options: dict[str, Any] = {"limit": limit, "seed": seed, "draws": draws, "progress": progress}
        report = decide_served(model, data, order, style, **options).report
    else:
        model = as_model(model)
        asked = resolve_prompts(model, data, order, style, limit, seed, draws)
        report = report_decisions(model, asked, batch_size=batch_size, progress=progress)
    for message in report.warnings:
        warn_user(message)
    return report


@torch.no_grad()
def report_decisions(
    model: Model,
    asked: PromptSet,
    *,
    batch_size: int | None = None,
    progress: bool = True,
    edits: EditsOf | None = None,
    fused_only: bool = False,
    model_hash: str | None = None,
) -> BinaryReport:
    """The report on prompts that are built already.

    The fused pass answers, held to the plain model on a sample of one order; where it refuses, plain passes do. Under
    `edits`, interventions as for `run_fused`, there is no plain pass to fall back on, nor to compare with.

    Raises:
        FusedRefusedError: under edits or with `fused_only`, where the fused pass refuses.
    """
    start, engine, notes = time.perf_counter(), model.engine, ()
    compared = None if edits else asked.compared_order
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    try:
        # The order that is compared runs first, so that a fault shows at the start.
        by_order = {
            prompts.order: fused_answers(model, prompts, edits=edits, reference=prompts.order == compared, **options)
            for prompts in sorted(asked, key=lambda prompts: prompts.order != compared)
        }
        answers = [by_order[order] for order in asked.orders]
    except FusedRefusedError as refusal:
        if edits or fused_only:
            raise
        engine, notes = "plain", (f"{PLAIN_NOTE}, as the fused pass refused: {refusal}",)
        answers = [answers_without_fusing(model, prompts, refusal, **options) for prompts in asked]
    run = describe_run(model, asked, start, engine, notes, model_hash, deciding=engine == "fused")
    unsure = [answered.unsure for answered in answers if answered.unsure is not None]
    return BinaryReport(
        np.concatenate([answered.d for answered in answers]),
        np.concatenate([answered.mass for answered in answers]),
        *asked.each,
        run,
        np.concatenate(unsure) if unsure else None,
    )


def answer_differences(
    model: Model, prompts: PromptBatch, batch_size: int | None = None
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " prompt"]]:
    """d = logit(No) - logit(Yes) and P(Yes) + P(No) at the first answer position of each prompt, by whichever pass."""
    try:
        answered = fused_answers(model, prompts, batch_size=batch_size, reference=True, progress=False)
    except FusedRefusedError as refusal:
        answered = answers_without_fusing(model, prompts, refusal, batch_size=batch_size, progress=False)
    return answered.d, answered.mass


def answers_without_fusing(
    model: Model,
    prompts: PromptBatch,
    refusal: FusedRefusedError,
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> Answered:
    """What a plain pass answers where the fused one refused: in batches, or, if they change an answer, one by one."""
    try:
        if isinstance(refusal, DisagreementError):
            raise refusal
        return plain_answers(model, prompts, batch_size=batch_size, progress=progress)
    except DisagreementError:
        return plain_answers(model, prompts, batch_size=1, progress=progress)


@torch.no_grad()
def fused_answers(
    model: Model,
    prompts: PromptBatch,
    *,
    batch_size: int | None = None,
    progress: bool = True,
    edits: EditsOf | None = None,
    reference: bool = False,
) -> Answered:
    """d and the answer mass of each prompt from the fused pass; arguments as for `run_fused`."""
    d, mass, lead = torch.empty(len(prompts)), torch.empty(len(prompts)), torch.empty(len(prompts))
    bar = f"deciding, {prompts.order}" if progress else None
    for batch in run_fused(model, prompts, edits=edits, batch_size=batch_size, reference=reference, bar=bar):
        d[batch.places], mass[batch.places] = compare_answers(batch.logits, prompts)
        lead[batch.places] = unsure_lead(batch.logits, prompts)
    return _finite(model, prompts, d, mass, lead)


@torch.no_grad()
def plain_answers(
    model: Model, prompts: PromptBatch, *, batch_size: int | None = None, progress: bool = True
) -> Answered:
    """d and the answer mass of each prompt from the unmodified model, in batches of equal length: without any pad.

    Raises:
        DisagreementError: where a prompt's answer beside others of its length isn't the one that it has alone.
    """
    d, mass, lead = torch.empty(len(prompts)), torch.empty(len(prompts)), torch.empty(len(prompts))
    batches = list(equal_length(prompts, PLAIN_BATCH if batch_size is None else batch_size))
    plain = PlainReference(model, prompts, batches)
    with tqdm(total=len(prompts), desc=f"deciding, {prompts.order}", unit="prompt", disable=not progress) as bar:
        for rows in plain.first(batches):
            batch = prompts.select(rows)
            logits = model.answer_logits(batch.tokens, batch.mask)
            d[rows], mass[rows] = compare_answers(logits, prompts)
            lead[rows] = unsure_lead(logits, prompts)
            if len(rows) > 1:
                plain.compare(rows, d[rows])
            bar.update(len(rows))
    return _finite(model, prompts, d, mass, lead)


def _finite(
    model: Model,
    prompts: PromptBatch,
    d: Float[Tensor, " prompt"],
    mass: Float[Tensor, " prompt"],
    lead: Float[Tensor, " prompt"],
) -> Answered:
    broken = ~(d.isfinite() & mass.isfinite())
    if bool(broken.any()):
        where = prompts.questions[int(broken.nonzero()[0])].id
        raise ModelError(
            f"question {where!r}: the logits are no numbers in {model.dtype}, so there is no decision; "
            f"load the model in float32"
        )
    unsure = None if prompts.unsure_token is None else (lead > 0).numpy()
    return Answered(d.double().numpy(), mass.double().numpy(), unsure)


def compare_answers(
    logits: Float[Tensor, "batch d_vocab"], prompts: PromptBatch
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The logit difference of the two candidates, and the probability of all their variants together."""
    variants = [*prompts.yes_variants, *prompts.no_variants, *prompts.unsure_variants]
    mass = (logits[:, variants].logsumexp(-1) - logits.logsumexp(-1)).exp()
    return logits[:, prompts.no_token] - logits[:, prompts.yes_token], mass


def unsure_lead(logits: Float[Tensor, "batch d_vocab"], prompts: PromptBatch) -> Float[Tensor, " batch"]:
    """By how much the third candidate's logit exceeds that of the likelier of the two; -inf where there is none."""
    if prompts.unsure_token is None:
        return torch.full((len(logits),), -torch.inf)
    return logits[:, prompts.unsure_token] - logits[:, [prompts.yes_token, prompts.no_token]].amax(-1)
