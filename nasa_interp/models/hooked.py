"""A hooked model behind the calls that passes make of a plain one, for what comes hooked and can't be had plain.

Whatever runs prompts asks its network for few things: logits of tokens, the embedding and the unembedding module, named
weights. A `HookedNetwork` answers them through TransformerLens, so that the same code runs on either.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..errors import HeadError, ModelError
from .bridge import Copies, is_hooked_transformer, same_storage
from .slices import WeightSlice, check_projections

# What transformers' configurations call the sizes, and what TransformerLens calls them.
SIZES = {
    "hidden_size": "d_model",
    "intermediate_size": "d_mlp",
    "vocab_size": "d_vocab",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_key_value_heads",
    "head_dim": "d_head",
    "max_position_embeddings": "n_ctx",
    "final_logit_softcapping": "output_logits_soft_cap",
}


class HookedConfig:
    """TransformerLens's configuration under transformers' names; what it doesn't have, it doesn't have here either."""

    def __init__(self, cfg: Any):
        self.cfg = cfg

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.cfg, SIZES.get(name, name))
        # TransformerLens says "no cap" by a number.
        return None if name == "final_logit_softcapping" and not (value and value > 0) else value

    def get_text_config(self) -> "HookedConfig":
        """Itself: there is no other part."""
        return self


class HookedNetwork:
    """A TransformerBridge or a HookedTransformer as passes run through it, with the hooks that the user hung on it.

    Args:
        hooked: the user's own.
        twin: for a bridge, a plain model over the same parameters, which says what the weights are called.
    """

    def __init__(self, hooked: Any, twin: Any = None):
        self.hooked, self.twin = hooked, twin
        self.generation_config: Any = getattr(twin, "generation_config", None)
        # Where a pass restarts, and what enters there; set by `restart_at`.
        self.entering: tuple[int, Tensor] | None = None

    @property
    def config(self) -> Any:
        """The configuration, under transformers' names."""
        source = getattr(self.hooked, "original_model", None)
        return HookedConfig(self.hooked.cfg) if source is None else source.config

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.hooked.cfg.n_layers

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a module (its parts, its parameters) is the hooked model's."""
        return getattr(self.hooked, name)

    def __call__(self, tokens: Int[Tensor, "batch pos"], past_key_values: Any = None, **_: Any) -> SimpleNamespace:
        """The logits of all positions, or of those that a hook on the unembedding leaves.

        No mask is needed: pads are on the right, where no real token looks, and the mask that is passed is whole, so
        that TransformerLens guesses none from the tokens.
        """
        if past_key_values is not None:
            raise ModelError("a hooked model runs prompts whole; share no prefix")
        whole = torch.ones_like(tokens)
        if self.entering is None:
            return SimpleNamespace(logits=self.hooked(tokens, attention_mask=whole, return_type="logits"))
        layer, hidden = self.entering
        # A bridge takes the residual stream alone, and needs no tokens besides.
        besides = {"tokens": tokens} if is_hooked_transformer(self.hooked) else {}
        logits = self.hooked(hidden, attention_mask=whole, return_type="logits", start_at_layer=layer, **besides)
        return SimpleNamespace(logits=logits)

    @torch.no_grad()
    def generate(
        self, tokens: Int[Tensor, "batch pos"], generation_config: Any, logits_processor: Any = (), **_: Any
    ) -> Int[Tensor, "batch longer"]:
        """The likeliest token, again and again, by whole passes, until every row has ended or is long enough.

        As `generate` of a plain model with a greedy configuration: rows that have ended are filled up with pads.
        """
        ends = torch.tensor(generation_config.eos_token_id or [], dtype=torch.long, device=tokens.device)
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for _step in range(generation_config.max_new_tokens):
            logits = self(tokens).logits[:, -1]
            for process in logits_processor:
                logits = process(tokens, logits)
            likeliest = logits.argmax(-1).to(tokens.device)
            tokens = torch.cat([tokens, torch.where(ended, generation_config.pad_token_id, likeliest)[:, None]], 1)
            ended |= torch.isin(likeliest, ends)
            if bool(ended.all()):
                break
        return tokens

    def get_input_embeddings(self) -> nn.Module:
        """What turns tokens into the residual stream."""
        return self.hooked.embed

    def get_output_embeddings(self) -> nn.Module:
        """What turns the residual stream into logits."""
        return self.hooked.unembed

    def get_parameter(self, name: str) -> Tensor:
        """A weight by the name that its slices use: the plain model's for a bridge, else TransformerLens's."""
        return (self.twin or self.hooked).get_parameter(name)

    def homes(self, name: str, weight: Tensor) -> Iterator[tuple[nn.Module, str, Tensor]]:
        """Where this weight must stand for the model to compute with it: module, parameter, and what goes there.

        A bridge may compute with a view of the plain model's parameter, or with a copy of some of its rows.
        """
        parameter = self.get_parameter(name)
        copies = (
            {}
            if self.twin is None
            else {id(m): r for m, t, r in Copies.pairs_of(self.twin, self.hooked) if t is parameter}
        )
        for module in self.hooked.modules():
            for leaf, own in module._parameters.items():
                if own is None:
                    continue
                if own is parameter:
                    yield module, leaf, weight
                elif id(own) in copies:
                    yield module, leaf, weight[copies[id(own)]]
                elif same_storage(own, parameter):
                    offset = own.storage_offset() - parameter.storage_offset()
                    yield module, leaf, weight.contiguous().as_strided(own.shape, own.stride(), offset)


def hooked_slices(hooked: Any, layer: int, index: int, projections: str = "q", bias: bool = False) -> list[WeightSlice]:
    """The slices of one head of a hooked model in its own names.

    A HookedTransformer's weights lie head by head: W_Q[head], b_Q[head] and so on. A bridge's lie in its q, k, v and o.

    Args:
        hooked: a HookedTransformer, or a bridge whose weights were processed, so that no plain model has them.
        layer, index: of the head, among the query heads.
        projections: letters out of "qkvo".
        bias: also its entries in b_Q, b_K, b_V; b_O belongs to no head.

    Raises:
        HeadError: no such head. ModelError: no such projection.

    Source: ours.
    """
    check_projections(projections)
    if not (0 <= layer < hooked.cfg.n_layers and 0 <= index < hooked.cfg.n_heads):
        raise HeadError(
            f"no head {layer}.{index}; the model has {hooked.cfg.n_layers} layers of {hooked.cfg.n_heads} heads"
        )
    attention, slices = hooked.blocks[layer].attn, []
    if not is_hooked_transformer(hooked):
        return [s for projection in projections for s in _bridge_slices(hooked, attention, index, projection, bias)]
    for projection in projections:
        for kind in ("W", "b") if bias and projection != "o" else ("W",):
            name = f"{kind}_{projection.upper()}"
            # Grouped keys and values are kept once a group, under a name of their own.
            grouped = f"_{name}" in attention._parameters
            place = index // hooked_group_size(hooked) if grouped else index
            slices.append(WeightSlice(f"blocks.{layer}.attn.{'_' if grouped else ''}{name}", 0, (place,)))
    return slices


def _bridge_slices(bridge: Any, attention: nn.Module, index: int, projection: str, bias: bool) -> Iterator[WeightSlice]:
    module = getattr(attention, projection).original_component
    d_head = bridge.cfg.d_head
    head = index // hooked_group_size(bridge) if projection in "kv" else index
    rows = tuple(range(head * d_head, (head + 1) * d_head))
    names = {id(parameter): name for name, parameter in bridge.named_parameters(remove_duplicate=False)}
    # The output projection takes heads in where the others give them out, and Conv1D stores the transpose of Linear.
    dim = int((projection == "o") != isinstance(module, Conv1D))
    if id(module.weight) not in names or module.weight.shape[dim] % d_head:
        raise ModelError(f"can't tell heads in {type(module).__name__} of the bridge; boot it without processing")
    yield WeightSlice(names[id(module.weight)], dim, rows)
    if bias and projection != "o" and getattr(module, "bias", None) is not None:
        yield WeightSlice(names[id(module.bias)], 0, rows)


def hooked_group_size(hooked: Any) -> int:
    """How many query heads share a key and value head."""
    return hooked.cfg.n_heads // (getattr(hooked.cfg, "n_key_value_heads", None) or hooked.cfg.n_heads)
