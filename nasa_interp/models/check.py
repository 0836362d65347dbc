"""Measured, not assumed: do the hooks of this model carry what their names say?"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import ModelError
from .bridge import eager_twin, is_hooked_transformer, pattern_hook, run_hooked, scores_hook
from .model import Model
from .windows import attention_windows

TOLERANCE = 1e-4
LONGEST = 256


@dataclass(frozen=True)
class HookCheck:
    """One prompt through the hooked model and through plain eager attention; largest absolute differences.

    Args:
        scores: softmax of the score hooks against the pattern hooks; NaN where score hooks are missing.
        patterns: the pattern hooks against plain eager attention; NaN without a plain view.
        logits: the hooked model's logits against plain eager ones, over the logits' range; NaN without a plain view.
        windows: whether exactly those keys are masked that the configuration's windows say.
    """

    scores: float
    patterns: float
    logits: float
    windows: bool

    @property
    def reads(self) -> Literal["scores", "pattern"]:
        """The hook that the score is read from: pre-softmax scores, or the pattern where the scores aren't scores."""
        return "scores" if self.scores <= TOLERANCE else "pattern"

    @property
    def problem(self) -> str | None:
        """Why the hooks can't be trusted, or None."""
        if self.logits > TOLERANCE:
            return f"the hooked model's logits are off plain transformers' by {self.logits:.1e} of their range"
        if self.patterns > TOLERANCE:
            return f"the hooked attention is off plain eager attention by {self.patterns:.1e}"
        if not self.windows:
            return "the attention masks other keys than the configuration's sliding windows say"
        return None


def check_hooks(model: Model, tokens: Int[Tensor, " pos"]) -> HookCheck:
    """Runs one prompt both ways; the result is kept with the model, as the hooks don't change.

    Raises:
        ModelError: where the hooked view can't be built or lacks the hooks.
    """
    if model.hook_check is None:
        model.hook_check = _measure(model, tokens[:LONGEST][None].to(model.device))
    return model.hook_check


@torch.no_grad()
def _measure(model: Model, tokens: Int[Tensor, "1 pos"]) -> HookCheck:
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
    softmax_off = max((s.softmax(-1) - patterns[layer]).abs().max().item() for layer, s in scores.items())
    windows = all(_window_holds(patterns[layer], w) for layer, w in enumerate(attention_windows(model)))
    if not model.has_hf or is_hooked_transformer(model.bridge):
        return HookCheck(softmax_off, float("nan"), float("nan"), windows)
    plain = eager_twin(model.hf)(tokens, output_attentions=True, use_cache=False)
    attentions = [a for a in plain.attentions if a is not None]
    off = max((a.float() - patterns[layer]).abs().max().item() for layer, a in enumerate(attentions))
    reach = (plain.logits.max() - plain.logits.min()).item()
    assert logits is not None
    return HookCheck(softmax_off, off, (logits - plain.logits).abs().max().item() / reach, windows)


def _keep(found: dict[int, Tensor], layer: int):
    def keep(tensor: Tensor, hook: Any) -> None:
        found[layer] = tensor.float()

    return keep


def _window_holds(pattern: Tensor, window: int | None) -> bool:
    """Keys that the rule hides get no attention at all, and the oldest key that it shows gets some in some head."""
    place = torch.arange(pattern.shape[-1], device=pattern.device)
    age = place[:, None] - place[None, :]
    hidden = (age < 0) if window is None else (age < 0) | (age >= window)
    if bool((pattern[..., hidden] != 0).any()):
        return False
    oldest = ~hidden & (age == min(pattern.shape[-1], window or pattern.shape[-1]) - 1)
    return bool((pattern[..., oldest] > 0).any())
