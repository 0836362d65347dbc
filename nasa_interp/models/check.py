"""Measures whether the hooks of this model carry what their names say."""

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import ModelError, first_line
from .bridge import eager_twin, pattern_hook, run_hooked, scores_hook, z_hook
from .model import Model
from .ready import check_ready, has_hooks
from .windows import attention_windows

TOLERANCE = 1e-4
# Roundings may add up to this many steps of a narrow dtype: tiny random models reached 14 (bf16) and 5 (fp16).
NARROW_STEPS = 16
LONGEST = 256


@dataclass(frozen=True)
class HookCheck:
    """One prompt through the hooked model and through plain eager attention; largest absolute differences.

    Args:
        scores: softmax of the score hooks against the pattern hooks; NaN where score hooks are missing.
        patterns: the pattern hooks against plain eager attention; NaN without a plain view.
        logits: the hooked model's logits against plain eager ones, over the logits' range; NaN without a plain view.
        windows: whether the masked keys are exactly those that the configuration's windows hide.
        lost: the largest share of a query's attention that goes to no key, as with attention sinks.
        plain: the logits of the plain model as loaded against eager ones, over their range; NaN without a plain view.
        step: the relative step of the weights' dtype, which bounds the rounding.
        hooked_parts: names of the plain model's parts with the user's own hooks.
    """

    scores: float
    patterns: float
    logits: float
    windows: bool
    lost: float
    plain: float
    step: float
    hooked_parts: str = ""

    @property
    def tolerance(self) -> float:
        """How far two computations of the same logits or patterns may differ."""
        return max(TOLERANCE, NARROW_STEPS * self.step)

    @property
    def reads(self) -> Literal["scores", "pattern"]:
        """The hook to read the score from: pre-softmax scores, or the pattern where score hooks carry no scores."""
        return "scores" if self.scores <= max(TOLERANCE, self.step) else "pattern"

    @property
    def problem(self) -> str | None:
        """Why the hooks can't be trusted, or None."""
        if self.logits > self.tolerance:
            return f"the hooked model's logits are off plain transformers' by {self.logits:.1e} of their range"
        if self.patterns > self.tolerance:
            return f"the hooked attention is off plain eager attention by {self.patterns:.1e}"
        if self.lost > max(TOLERANCE, self.step):
            return f"something besides the keys (attention sinks?) takes attention away, up to {self.lost:.0%}"
        if self.reads == "pattern" and self.step == torch.finfo(torch.float16).eps:
            return "its score hooks carry no scores, and in float16 the patterns underflow; load it in another dtype"
        if self.plain > self.tolerance and self.hooked_parts:
            return (
                f"the hooked view doesn't run the hooks on {self.hooked_parts}; use the fused engine, or take them off"
            )
        if self.plain > self.tolerance:
            return (
                f"the model as it was loaded computes other logits than with eager attention, by {self.plain:.1e} of "
                f'their range; load it with attn_implementation="eager", or take back what was replaced in it'
            )
        if not self.windows:
            return "the attention masks other keys than the configuration's sliding windows say"
        return None


def check_hooks(model: Model, tokens: Int[Tensor, " pos"]) -> HookCheck:
    """Runs one prompt both ways, at every call, as a model's hooks can change between two calls.

    Raises:
        ModelError: where the hooked view can't be built or lacks the hooks.
    """
    try:
        return _measure(model, tokens[:LONGEST][None].to(model.device))
    except ModelError:
        raise
    except Exception as error:  # a foreign module can raise anything in another tree
        raise ModelError(
            f"the hooked view of {model.name} fails ({type(error).__name__}: {first_line(error)}); use the fused engine"
        ) from error


def trusted_hooks(model: Model, tokens: Int[Tensor, " pos"]) -> HookCheck:
    """The result of `check_hooks`, if the hooks can be trusted.

    Raises:
        ModelError: where they can't, saying why.
    """
    check = check_hooks(model, tokens)
    if check.problem is not None:
        raise ModelError(f"{model.name} can't be scored hooked: {check.problem}; see `nasa-interp doctor`")
    return check


@torch.no_grad()
def check_acting_hooks(model: Model, tokens: Int[Tensor, " pos"]) -> None:
    """Makes sure that what hooks write acts: outputs are made of patterns, and logits of outputs.

    Args:
        model: one that runs through hooks.
        tokens: one prompt.

    Raises:
        ModelError: where the hooks' values are read by nobody, or a hook never fires.
    """
    tokens = tokens[:LONGEST][None].to(model.device)
    mask, left, fired = torch.ones_like(tokens, dtype=torch.bool), [0.0], set()

    def empty(pattern: Tensor, hook: Any) -> Tensor:
        return torch.zeros_like(pattern)

    def keep(layer: int) -> Any:
        def change(z: Tensor, hook: Any) -> Tensor:
            fired.add(layer)
            left.append(z.abs().max().item())
            return torch.ones_like(z)

        return change

    hooks: list[tuple[str, Any]] = [(pattern_hook(layer), empty) for layer in range(model.n_layers)]
    hooks += [(z_hook(layer), keep(layer)) for layer in range(model.n_layers)]
    with warnings.catch_warnings():
        # TransformerLens may say the same of an adapter.
        warnings.simplefilter("ignore")
        base = run_hooked(model.bridge, tokens, mask, [], logits=True)
        changed = run_hooked(model.bridge, tokens, mask, hooks, logits=True)
    assert base is not None
    assert changed is not None
    if len(fired) < model.n_layers or max(left) > 0 or torch.equal(base, changed):
        raise ModelError(
            f"what hooks write into {model.name} doesn't act: heads' outputs are not made of the patterns that its "
            f"hooks carry, or nothing is made of the outputs; load the plain transformers model"
        )


@torch.no_grad()
def _measure(model: Model, tokens: Int[Tensor, "1 pos"]) -> HookCheck:
    if model.has_hf:
        check_ready(model.hf)
    windows = attention_windows(model)
    scores: dict[int, Tensor] = {}
    patterns: dict[int, Tensor] = {}
    hooks: list[tuple[str, Any]] = []
    for layer in range(model.n_layers):
        hooks.append((scores_hook(layer), _keep(scores, layer)))
        hooks.append((pattern_hook(layer), _keep(patterns, layer)))
    logits = run_hooked(model.bridge, tokens, torch.ones_like(tokens, dtype=torch.bool), hooks, logits=True)
    if len(patterns) < model.n_layers:
        raise ModelError(
            f"the pattern hooks of {model.n_layers - len(patterns)} layers never fired; this model can't be scored "
            f"hooked: see `nasa-interp doctor`"
        )
    assert logits is not None
    if not bool(logits.isfinite().all()):
        raise ModelError(f"{model.name} computes logits that are no numbers in {model.dtype}; load it in float32")
    check = HookCheck(
        scores=max((_off(s.softmax(-1), patterns[layer]) for layer, s in scores.items()), default=math.nan),
        patterns=math.nan,
        logits=math.nan,
        windows=all(_window_holds(patterns[layer], w) for layer, w in enumerate(windows)),
        lost=max((1 - p.sum(-1)).max().item() for p in patterns.values()),
        plain=math.nan,
        step=torch.finfo(model.dtype).eps,
    )
    if not model.has_hf:
        return check
    eager = eager_twin(model.hf)(tokens, output_attentions=True, use_cache=False)
    reach = (eager.logits.max() - eager.logits.min()).item()
    return replace(
        check,
        patterns=max(_off(a, patterns[layer]) for layer, a in enumerate(eager.attentions)),
        logits=_off(logits, eager.logits) / reach,
        plain=_off(model.hf(tokens, use_cache=False).logits, eager.logits) / reach,
        hooked_parts=", ".join(name or "the model" for name, part in model.hf.named_modules() if has_hooks(part)),
    )


def _off(one: Tensor, other: Tensor) -> float:
    return (one.float() - other.float()).abs().max().item()


def _keep(kept: dict[int, Tensor], layer: int):
    def keep(tensor: Tensor, hook: Any) -> None:
        kept[layer] = tensor.float()

    return keep


def _window_holds(pattern: Tensor, window: int | None) -> bool:
    """Whether hidden keys get no attention at all, and the oldest visible key gets some in at least one head."""
    position = torch.arange(pattern.shape[-1], device=pattern.device)
    age = position[:, None] - position[None, :]
    hidden = (age < 0) if window is None else (age < 0) | (age >= window)
    if bool((pattern[..., hidden] != 0).any()):
        return False
    oldest = ~hidden & (age == min(pattern.shape[-1], window or pattern.shape[-1]) - 1)
    return bool((pattern[..., oldest] > 0).any())
