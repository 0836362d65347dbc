"""Whole attention patterns of a few heads, labelled by token, for exploring."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ..batches import equal_length
from ..errors import HeadError
from ..heads import Head, HeadList
from ..models import as_model
from ..models.bridge import pattern_hook, run_hooked
from ..models.check import trusted_hooks
from ..prompts import PromptBatch
from ..torch_defaults import under_torch_defaults


@dataclass(frozen=True, repr=False)
class AttentionPatterns:
    """Attention after the softmax, for chosen heads on chosen prompts.

    Args:
        values: [prompt, head, query, key]; rows and columns past a prompt's end are NaN.
        heads: the heads in the order of the second axis.
        tokens: each prompt's tokens as text.
        prompts: what they were computed on; spans and queries are found there.
    """

    values: Float[np.ndarray, "prompt head query key"]
    heads: tuple[Head, ...]
    tokens: tuple[tuple[str, ...], ...]
    prompts: PromptBatch

    def to_dataframe(self, prompt: int, head: Any) -> pd.DataFrame:
        """One head's pattern on one prompt: a row per query, a column per key, both named "position token"."""
        found = Head.parse(head)
        if found not in self.heads:
            raise HeadError(f"no pattern of head {found}; there are {', '.join(map(str, self.heads))}")
        names = [f"{position} {token}" for position, token in enumerate(self.tokens[prompt])]
        grid = self.values[prompt, self.heads.index(found), : len(names), : len(names)]
        return pd.DataFrame(grid, index=names, columns=names)

    def __repr__(self) -> str:
        return f"AttentionPatterns({len(self.tokens)} prompts, heads {', '.join(map(str, self.heads))})"


@under_torch_defaults
@torch.no_grad()
def attention_patterns(model: Any, prompts: PromptBatch, heads: HeadList | Sequence[Any]) -> AttentionPatterns:
    """The patterns themselves, from TransformerLens hooks; for a few prompts, as each takes [query, key] a head.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        prompts: what `build_prompts` made.
        heads: heads, pairs or names.

    Raises:
        HeadError: where a head is outside the model.
        ModelError: where the hooks don't carry what plain eager attention computes.
    """
    model = as_model(model)
    chosen = HeadList.of(heads).check(model.n_layers, model.n_heads).heads
    trusted_hooks(model, prompts.tokens[0, : int(prompts.last_pos[0]) + 1])
    length = prompts.tokens.shape[1]
    values = np.full((len(prompts), len(chosen), length, length), np.nan, dtype=np.float32)

    def reader(layer: int, rows: list[int]):
        of_layer = [i for i, head in enumerate(chosen) if head.layer == layer]
        indices = [chosen[i].index for i in of_layer]

        def read(pattern, hook) -> None:
            end = pattern.shape[-1]
            values[np.ix_(rows, of_layer, range(end), range(end))] = pattern[:, indices].float().cpu().numpy()

        return read

    layers = sorted({head.layer for head in chosen})
    for rows in equal_length(prompts, len(prompts)):
        batch = prompts.select(rows)
        hooks = [(pattern_hook(layer), reader(layer, rows)) for layer in layers]
        run_hooked(model.bridge, batch.tokens.to(model.device), batch.mask.to(model.device), hooks)
    lengths = (prompts.last_pos + 1).tolist()
    tokens = tuple(
        tuple(model.tokenizer.decode([token]) for token in row[:n].tolist())
        for row, n in zip(prompts.tokens, lengths, strict=True)
    )
    return AttentionPatterns(values, chosen, tokens, prompts)
