"""The hooked engine: NAS from TransformerLens hooks, which read only the candidate columns inside the hook.

For exploring, for any model that TransformerLens runs, and as the reference for the fused engine.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..batches import equal_length
from ..errors import ModelError
from ..models import Model
from ..models.bridge import pattern_hook, run_hooked, scores_hook
from ..models.check import trusted_hooks
from ..models.windows import attention_windows
from ..prompts import PromptBatch
from .formula import counted_queries, log_mean_attention, negative_attention_score, span_index


@torch.no_grad()
def score_hooked(
    model: Model, prompts: PromptBatch, batch_size: int = 16, progress: bool = True
) -> tuple[Float[Tensor, "prompt layer head"], Float[Tensor, "prompt layer"]]:
    """NAS of every head on every prompt.

    Args:
        model: any model with a hooked view.
        prompts: what `build_prompts` made.
        batch_size: prompts a forward pass; changes nothing but time and memory.
        progress: show a bar.

    Returns:
        The scores (NaN where no query counts), and how many queries counted.

    Raises:
        ModelError: where the hooks don't carry what plain eager attention computes, or where a layer's hook fired
            another number of times than once a batch.
    """
    check = trusted_hooks(model, prompts.tokens[0, : int(prompts.last_pos[0]) + 1])
    hook_name = scores_hook if check.reads == "scores" else pattern_hook
    layers = range(model.n_layers)
    windows = attention_windows(model)
    scores = torch.full((len(prompts), model.n_layers, model.n_heads), torch.nan)
    counts = torch.zeros(len(prompts), model.n_layers)
    fired = dict.fromkeys(layers, 0)
    hooked = model.bridge
    n_batches = 0

    def read(values: Tensor, hook, layer: int, batch: PromptBatch, rows: list[int]) -> None:
        fired[layer] += 1
        pre_softmax = values.float() if check.reads == "scores" else _log_pattern(values)
        scores[rows, layer], counts[rows, layer] = _read_candidates(pre_softmax, batch, windows[layer])

    bar = tqdm(total=len(prompts), desc=f"scoring, {prompts.order}", unit="prompt", disable=not progress)
    # Without pads: hooks of the user's may count positions from the end, and some models choose them by the longest.
    for rows in equal_length(prompts, batch_size):
        batch = prompts.select(rows)
        hooks = [(hook_name(layer), partial(read, layer=layer, batch=batch, rows=rows)) for layer in layers]
        run_hooked(hooked, batch.tokens.to(model.device), batch.mask.to(model.device), hooks)
        n_batches += 1
        bar.update(len(rows))
    bar.close()
    _check_fired(fired, n_batches, hook_name)
    return scores, counts


def _check_fired(fired: Mapping[int, int], n_batches: int, hook_name: Callable[[int], str]) -> None:
    """Raises ModelError where a layer's hook didn't fire once a batch."""
    wrong = [layer for layer, times in fired.items() if times != n_batches]
    if wrong:
        raise ModelError(
            f"the hook {hook_name(wrong[0])} fired {fired[wrong[0]]} times in {n_batches} batches; "
            f"its scores would be wrong, so none are returned"
        )


def _read_candidates(
    pre_softmax: Float[Tensor, "batch head query key"], batch: PromptBatch, window: int | None
) -> tuple[Float[Tensor, "batch head"], Float[Tensor, " batch"]]:
    """NAS and the number of counted queries, from one layer's scores; only two columns leave the hook."""
    start = int(batch.first_query.min())
    device = pre_softmax.device
    # Queries before every prompt's first one are never read.
    late = pre_softmax[:, :, start:]
    log_sum = late.logsumexp(-1)
    logs = []
    for span in (batch.yes_span, batch.no_span):
        index, real = span_index(span.to(device))
        columns = late.gather(-1, index[:, None, None, :].expand(-1, late.shape[1], late.shape[2], -1))
        logs.append(log_mean_attention(columns, log_sum, real))
    queries = torch.arange(start, pre_softmax.shape[2])
    counted = counted_queries(batch.first_query, batch.last_pos, batch.yes_span, batch.no_span, queries, window)
    nas = negative_attention_score(logs[0], logs[1], counted[:, None].to(device))
    return nas.cpu(), counted.sum(-1).float()


def _log_pattern(pattern: Tensor) -> Float[Tensor, "batch head query key"]:
    """The logarithm of a pattern is its scores less the row's log-sum-exp, so the same formula reads both.

    Attention that underflowed to 0 is taken for the smallest number there is; masked keys aren't counted anyway.
    """
    return pattern.float().clamp_min(torch.finfo(torch.float32).tiny).log()
