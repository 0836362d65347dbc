"""Can this model be scored, by which engine, at what cost? Answered by inspection and measurement, not by a list."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .decisions import LOW_MASS, answers_without_fusing, fused_answers
from .errors import FusedRefusedError, ModelError, NasaInterpError
from .forward import fused_refusal
from .memory import memory_estimate
from .models import Model, as_model
from .models.bridge import eager_twin
from .models.check import NARROW_STEPS, HookCheck, check_hooks
from .models.offload import offloaded_names
from .models.positions import switching_length
from .models.ready import MERGE, has_adapters
from .models.windows import attention_windows
from .prompts import PromptBatch, PromptStyle
from .questions import load_questions
from .run import jsonable
from .scoring.formula import nas_terms
from .scoring.fused import score_fused
from .session import PromptSet
from .torch_defaults import under_torch_defaults

SAMPLE = 16
# Scores that differ by more than this share of their absolute terms are refused; fp32 rounding reached 3e-5 in 30
# layers, a missing mask more than 1. Narrow dtypes are allowed some steps more.
APART = 1e-3
MIB = 2**20


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    Args:
        family: the model's class.
        n_layers, n_heads: number of layers, and of heads per layer.
        group_sizes: how many query heads share a key and value head, by layer.
        windows: each layer's sliding window, None where attention is full; empty where unknown.
        engines: for each engine, None where it is exact, or why it is refused.
        tuning: None where the heads' weights can be tuned, or why not.
        check: the hooks against plain eager attention on one prompt; None where it couldn't run.
        fused_off: fused scores against plain eager attention on that prompt, the largest difference over the sum of
            absolute terms; NaN where it couldn't run or, in float16, where eager attention underflows.
        kind, yes_token, no_token: how prompts are written, and the tokens that are compared.
        answer_mass: mean P(Yes) + P(No) over `n_questions` built-in questions and both orders.
        memory: bytes of the weights, and of one prompt of `length` tokens by each engine and when it is scored, weights
            included; see `memory_estimate`.
        notes: anything else worth knowing.
    """

    model: str
    family: str
    dtype: str
    device: str
    n_layers: int
    n_heads: int
    group_sizes: list[int]
    windows: list[int | None]
    engines: dict[str, str | None]
    tuning: str | None
    check: HookCheck | None
    fused_off: float
    kind: str
    yes_token: str
    no_token: str
    answer_mass: float
    n_questions: int
    length: int
    memory: dict[str, int]
    notes: list[str]

    @property
    def engine(self) -> Literal["fused", "hooked"] | None:
        """The engine that scoring picks by default: fused where it is exact, else hooked; None where both refuse."""
        exact: tuple[Literal["fused", "hooked"], ...] = ("fused", "hooked")
        return next((name for name in exact if self.engines[name] is None), None)

    @property
    def ok(self) -> bool:
        """Whether at least one engine accepts the model."""
        return self.engine is not None

    def text(self) -> str:
        """One line for each finding."""
        low = "" if self.answer_mass >= LOW_MASS else "  (low: the model means to say something else)"
        sizes = ", ".join(f"{name} {size / MIB:,.0f} MiB" for name, size in self.memory.items())
        lines = {
            "model": f"{self.model} ({self.family}), {self.dtype} on {self.device}",
            "heads": f"{self.n_layers} layers x {self.n_heads} heads",
            "groups": _groups_text(self.group_sizes),
            "windows": _windows_text(self.windows),
            **{name: "exact" if reason is None else f"refused: {reason}" for name, reason in self.engines.items()},
            "engine": self.engine or "none: the model can't be scored",
            "hook check": _check_text(self.check),
            "fused check": _fused_text(self.fused_off),
            "tuning": "possible" if self.tuning is None else f"refused: {self.tuning}",
            "prompts": f"{self.kind}; compares {self.no_token!r} with {self.yes_token!r}",
            "answer mass": f"{self.answer_mass:.2f} on {self.n_questions} built-in questions in both orders{low}",
            "memory": f"{sizes} (one prompt of {self.length} tokens, libraries apart; an estimate)",
        }
        rows = [f"{name:<13}{text}" for name, text in lines.items() if text]
        return "\n".join([*rows, *(f"{'note':<13}{note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return jsonable(asdict(self) | {"ok": self.ok, "engine": self.engine})


@under_torch_defaults
@torch.no_grad()
def diagnose(
    model: Any, length: int = 1024, style: PromptStyle | None = None, limit: int = SAMPLE, seed: int = 0
) -> Diagnosis:
    """Finds out whether a model can be scored and tuned, by which engine, and at what cost.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        length: prompt length in tokens for the memory estimate.
        style: wording and candidates.
        limit, seed: size and draw of the sample of questions that the answer mass is measured on.

    Raises:
        NasaInterpError: where the model has no heads to score (an encoder and a decoder, recurrent layers), or no
            prompt can be written for it.
    """
    model = as_model(model)
    questions = load_questions("builtin:verify#probe", limit=limit, seed=seed)
    asked = PromptSet.build(model, questions, style=style)
    first = asked.batches[0].select([0])
    check, hooked = _hooked(model, first)
    fused_off, fused = _fused(model, first)
    masses, apart = _masses(model, asked)
    fused = fused or apart
    return Diagnosis(
        model=model.name,
        family=type(model.module).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        group_sizes=_group_sizes(model),
        windows=_windows(model),
        engines={"fused": fused, "hooked": hooked},
        tuning=tuning_refusal(model),
        check=check,
        fused_off=fused_off,
        kind=first.kind,
        yes_token=model.tokenizer.decode([first.yes_token]),
        no_token=model.tokenizer.decode([first.no_token]),
        answer_mass=float(sum(m.mean() for m in masses) / len(masses)),
        n_questions=len(questions),
        length=length,
        memory=memory_estimate(model, length),
        notes=[*first.notes, *_notes(model)],
    )


def _masses(model: Model, asked: PromptSet) -> tuple[list[Float[np.ndarray, " prompt"]], str | None]:
    """The answer masses of each order, and why the fused pass that gave them can't be believed."""
    try:
        return [fused_answers(model, batch, reference=True, progress=False)[1] for batch in asked], None
    except FusedRefusedError as refusal:
        return [answers_without_fusing(model, batch, refusal, progress=False)[1] for batch in asked], str(refusal)


def tuning_refusal(model: Model) -> str | None:
    """Why a model's heads can't be tuned, or None."""
    weights = model.weights
    if getattr(weights, "hf_quantizer", None) is not None or getattr(weights, "is_quantized", False):
        return "its weights are quantized; load it unquantized"
    if offloaded_names(weights):
        return "some of its weights are offloaded; load it onto one device"
    if has_adapters(weights):
        return f"it holds LoRA adapters; {MERGE}"
    try:
        for layer in range(model.n_layers):
            model.group_of(layer, 0)
    except ModelError as error:
        return str(error)
    return None


def _hooked(model: Model, prompt: PromptBatch) -> tuple[HookCheck | None, str | None]:
    """The self-check of the hooks, and why the hooked engine is refused."""
    try:
        check = check_hooks(model, prompt.tokens[0])
        attention_windows(model)
    except NasaInterpError as error:
        return None, str(error)
    return check, check.problem


def _fused(model: Model, prompt: PromptBatch) -> tuple[float, str | None]:
    """Fused scores of one prompt against eager attention, and why the fused engine is refused."""
    refusal = fused_refusal(model, prompt)
    if refusal is not None:
        cause = fused_cause(model.config) if model.has_hf else None
        return math.nan, f"{cause}: {refusal}" if cause else refusal
    if model.dtype == torch.float16:
        # Eager patterns underflow there, so they prove nothing; scoring compares the two engines on a sample.
        return math.nan, None
    try:
        scores, size = _eager_scores(model, prompt)
    except Exception:  # the model has no eager twin: quantized, adapted, or spread over devices
        return math.nan, None
    fused = score_fused(model, prompt, progress=False)[0][0]
    off = float(((fused - scores).abs() / size).nan_to_num(0.0).max())
    allowed = max(APART, NARROW_STEPS * torch.finfo(model.dtype).eps)
    if off > allowed or bool((fused.isnan() != scores.isnan()).any()):
        return off, f"its scores are {off:.1e} of their terms off those of plain eager attention"
    return off, None


def fused_cause(config: Any) -> str | None:
    """Why fused attention isn't exact for this configuration, in plain words, where known."""
    if cap := getattr(config, "attn_logit_softcapping", None):
        return f"scores are soft-capped at {cap:g}"
    if getattr(config, "model_type", "") == "gpt_oss":
        return "attention sinks take part of the attention"
    if getattr(config, "alibi", False):
        return "positions are biases on the scores (ALiBi)"
    return None


@torch.no_grad()
def _eager_scores(model: Model, prompt: PromptBatch) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """One prompt's scores from eager attention matrices, and the sums of their absolute terms."""
    out = eager_twin(model.hf)(prompt.tokens.to(model.device), output_attentions=True, use_cache=False)
    first = int(prompt.first_query[0])
    scores, sizes = [], []
    for attention in out.attentions:
        late = attention[0, :, first:].float().cpu()
        yes, no = (late[..., slice(*span[0].tolist())] for span in (prompt.yes_span, prompt.no_span))
        # What eager attention masks is exactly 0.
        counted = (yes > 0).all(-1) & (no > 0).all(-1)
        terms = nas_terms(yes.mean(-1).log(), no.mean(-1).log()).masked_fill(~counted, 0)
        none = ~counted.any(-1)
        scores.append(terms.sum(-1).masked_fill(none, math.nan))
        sizes.append(terms.abs().sum(-1))
    return torch.stack(scores), torch.stack(sizes)


def _group_sizes(model: Model) -> list[int]:
    try:
        return [len(model.group_of(layer, 0)) for layer in range(model.n_layers)]
    except (ModelError, AttributeError):
        return []


def _windows(model: Model) -> list[int | None]:
    try:
        return attention_windows(model)
    except ModelError:
        return []


def _notes(model: Model) -> list[str]:
    """Further notes for the user."""
    notes = list(model.state_notes())
    if switch := switching_length(model.config):
        notes.append(f"LongRoPE: the fused engine takes prompts up to {switch} tokens, beyond which positions change")
    try:
        spans = any(model.norm_spans_heads(layer) for layer in range(model.n_layers))
    except ModelError:
        return notes
    return notes + (
        ["queries are normed over all heads together: tuning one head also rescales the others"] if spans else []
    )


def _groups_text(sizes: list[int]) -> str:
    if not sizes:
        return ""
    if set(sizes) == {1}:
        return "each head has its own key and value"
    return f"{' or '.join(map(str, sorted(set(sizes))))} heads share a key and a value"


def _windows_text(windows: list[int | None]) -> str:
    sliding = [window for window in windows if window is not None]
    if not sliding:
        return ""
    return f"{len(sliding)} of {len(windows)} layers look back {' or '.join(map(str, sorted(set(sliding))))} keys"


def _fused_text(off: float) -> str:
    return "" if math.isnan(off) else f"scores {off:.1e} of their absolute terms off eager's"


def _check_text(check: HookCheck | None) -> str:
    if check is None:
        return ""
    reads = f"reads the {'scores' if check.reads == 'scores' else 'pattern, as the score hooks carry no scores'}"
    if math.isnan(check.logits):
        return f"no plain view to compare with; {reads}"
    return f"patterns {check.patterns:.1e} off eager's, logits {check.logits:.1e} of their range; {reads}"
