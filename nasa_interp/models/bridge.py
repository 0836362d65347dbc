"""The only module that knows TransformerLens: builds the hooked view, names its hooks, runs it."""

import copy
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ModelError, first_line
from .offload import check_in_memory
from .ready import check_ready, derives, has_hooks
from .slices import HeadLayout, head_layout, head_slices

Hook = Callable[..., Any]


def scores_hook(layer: int) -> str:
    """Pre-softmax attention scores, masked: [batch, head, query, key]."""
    return f"blocks.{layer}.attn.hook_attn_scores"


def pattern_hook(layer: int) -> str:
    """Attention after the softmax: [batch, head, query, key]."""
    return f"blocks.{layer}.attn.hook_pattern"


def z_hook(layer: int) -> str:
    """Head outputs before the output projection: [batch, pos, head, d_head]."""
    return f"blocks.{layer}.attn.hook_z"


def residual_hook(layer: int) -> str:
    """The residual stream that enters the layer: [batch, pos, d_model]."""
    return f"blocks.{layer}.hook_resid_pre"


@contextmanager
def hung(hooked: Any, hooks: Sequence[tuple[str, Hook]]) -> Iterator[None]:
    """Inside, these functions hang on the hook points of these names, behind those that hang there already.

    Raises:
        ModelError: naming a hook point that the model doesn't have.
    """
    check_hook_points(hooked, [name for name, _ in hooks])
    ours = []
    try:
        for name, hook in hooks:
            point = hooked.hook_dict[name]
            point.add_hook(hook)
            ours.append((point, point.fwd_hooks[-1]))
        yield
    finally:
        # Each of ours by itself: TransformerLens's own ways to take hooks off would take the user's too.
        for point, handle in ours:
            handle.hook.remove()
            point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]


def check_hook_points(hooked: Any, names: Iterable[str]) -> None:
    """Raises ModelError for the first of these hook points that the model doesn't have."""
    if missing := [name for name in names if name not in hooked.hook_dict]:
        raise ModelError(f"the hooked model has no hook point {missing[0]!r}; this architecture can't be scored hooked")


def is_bridge(model: Any) -> bool:
    """Whether this is a TransformerBridge, without importing TransformerLens."""
    return derives(model, "TransformerBridge", "transformer_lens")


def is_hooked_transformer(model: Any) -> bool:
    """Whether this is a HookedTransformer (TransformerLens 3 and older)."""
    return derives(model, "HookedTransformer", "transformer_lens")


def user_hooks(hooked: Any) -> list[str]:
    """Names of the hook points and modules with the user's own hooks, which stay between runs."""
    points = [name for name, point in hooked.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]
    return points + [name or "the bridge" for name, part in hooked.named_modules() if has_hooks(part)]


def processed(hooked: Any) -> bool:
    """Whether the hooked model's weights were folded or centred, so that they are no longer the original model's."""
    folded = getattr(getattr(hooked, "cfg", None), "normalization_type", None) in ("LNPre", "RMSPre")
    return bool(getattr(hooked, "_weights_processed", False)) or folded


def build_bridge(hf: Any, tokenizer: Any, name: str) -> Any:
    """A TransformerBridge that shares the parameters of `hf`, which stays as it is.

    A bridge rewires the modules it gets. So it gets a second tree of modules, built eager and without weights, which
    then takes the original's parameters and buffers: nothing is stored twice, and an edit in place shows in both.
    Families whose fused projection the bridge splits get copies of it; `Copies` keeps those in sync.

    Raises:
        ModelError: where TransformerLens has no adapter for the architecture, or its adapter fails.
    """
    # Imported here, since it takes a second and the plain view doesn't need it.
    try:
        from transformer_lens.model_bridge.sources import build_bridge_from_module, detect_tokenizer_bos_eos
    except ImportError as error:
        raise ModelError(f"this TransformerLens can't hook a loaded model ({error}); install 4.3 or newer") from error
    architecture = type(hf).__name__
    check_in_memory(hf, name, "the hooked view")
    try:
        tree = eager_twin(hf)
        # Splitting a fused projection draws initial weights that are overwritten; that must not touch the global state.
        with _quiet(), torch.random.fork_rng(devices=[]):
            bridge = build_bridge_from_module(
                tree,
                architecture,
                hf_config=tree.config,
                model_name=name,
                dtype=hf.dtype,
                device=str(hf.device),
                post_adapter_hook=_grouped_split(hf),
            )
    except Exception as error:  # an unexpected module can make an adapter raise anything
        raise ModelError(
            f"TransformerLens can't hook {architecture} ({first_line(error)}); use the fused engine, if "
            f"`nasa-interp doctor` "
            f"says that it takes this model"
        ) from error
    bridge.tokenizer = copy.deepcopy(tokenizer)
    bridge.cfg.tokenizer_prepends_bos, bridge.cfg.tokenizer_appends_eos = detect_tokenizer_bos_eos(bridge.tokenizer)
    return bridge.eval()


def plain_twin(bridge: Any) -> Any:
    """A plain transformers model over the very parameters of a bridge, which stays as it is; None where there is none.

    The bridge's own transformers model is rewired. So a second tree of its class is built without weights, and the
    bridge's parameters and buffers are hung into it under the names that they had before the bridge renamed them.

    Returns:
        None where the bridge holds other parameters than its class, such as after its weights were converted.
    """
    original = getattr(bridge, "original_model", None)
    if original is None or not hasattr(original, "config"):
        return None
    config = copy.deepcopy(original.config)
    # A bridge is made of eager attention; a plain model would have taken the fused one where its class has it.
    config._attn_implementation = "sdpa" if getattr(original, "_supports_sdpa", False) else "eager"
    with torch.device("meta"):
        tree = type(original)(config)
    modules = {_unwrapped(name): part for name, part in original.named_modules(remove_duplicate=False)}
    for kind in ("parameters", "buffers"):
        own = {_unwrapped(n): v for n, v in getattr(original, f"named_{kind}")(remove_duplicate=False)}
        for name, wanted in getattr(tree, f"named_{kind}")(remove_duplicate=False):
            tensor = own.get(name)
            if tensor is None or tensor.shape != wanted.shape:
                return None
            _hang(tree, name, f"_{kind}", tensor)
    for name, module in tree.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_meta:
                vars(module)[key] = getattr(modules.get(name), key, value)
    if getattr(original, "generation_config", None) is not None:
        tree.generation_config = copy.deepcopy(original.generation_config)
    return tree.eval()


def _unwrapped(name: str) -> str:
    """The name that a part had before the bridge wrapped it."""
    return name.replace("._original_component", "")


def eager_twin(hf: Any) -> Any:
    """A model of the same class with eager attention that holds the same parameter and buffer objects."""
    config = copy.deepcopy(hf.config)
    # Set before construction, where Falcon and GPT-J choose their attention class for good.
    config._attn_implementation = "eager"
    with torch.device("meta"):
        tree = type(hf)(config)
    for name, parameter in hf.named_parameters(remove_duplicate=False):
        _hang(tree, name, "_parameters", parameter)
    for name, buffer in hf.named_buffers(remove_duplicate=False):
        _hang(tree, name, "_buffers", buffer)
    # Plain tensor attributes, such as saved rotary frequencies, were made on the meta device.
    for name, module in hf.named_modules():
        vars(tree.get_submodule(name)).update({key: v for key, v in vars(module).items() if isinstance(v, Tensor)})
    return tree.eval()


def _hang(tree: nn.Module, name: str, kind: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    getattr(tree.get_submodule(owner), kind)[leaf] = tensor


def _grouped_split(hf: Any) -> Callable[[Any], None] | None:
    """A fix for Falcon's grouped layout, which TransformerLens 4.3 splits as if every head had its own keys."""
    if type(hf).__name__ != "FalconForCausalLM" or not getattr(hf.config, "new_decoder_architecture", False):
        return None
    layout = head_layout(hf, 0)

    def split(attention: Any) -> tuple[nn.Linear, ...]:
        return tuple(_take_rows(attention.query_key_value, _split_rows(hf, layout, 0, p)) for p in "qkv")

    def repair(adapter: Any) -> None:
        adapter.cfg.n_key_value_heads = layout.groups
        adapter.component_mapping["blocks"].submodules["attn"].split_qkv_matrix = split

    return repair


def _split_rows(hf: Any, layout: HeadLayout, layer: int, projection: str) -> list[int]:
    """Rows of the fused projection that hold this projection, one head (or group) after another."""
    step = 1 if projection == "q" else layout.heads // layout.groups
    return [row for head in range(0, layout.heads, step) for row in head_slices(hf, layer, head, projection)[0].index]


def _take_rows(fused: nn.Linear, rows: list[int]) -> nn.Linear:
    part = nn.Linear(fused.in_features, len(rows), bias=fused.bias is not None, device="meta")
    part.weight = nn.Parameter(fused.weight.detach()[rows], requires_grad=False)
    if fused.bias is not None:
        part.bias = nn.Parameter(fused.bias.detach()[rows], requires_grad=False)
    return part


class Copies:
    """Keeps the bridge's copies of fused projections (GPT-NeoX, Falcon) in sync with the plain model's weights.

    `carry` copies an edit of either side to the other; `Model.bridge` and `Model.hf` call it. Families whose bridge
    shares all parameters have no copies.
    """

    def __init__(self, hf: Any, bridge: Any):
        self.pairs = self.pairs_of(hf, bridge)
        self.hashes = self._hash()

    @staticmethod
    def pairs_of(hf: Any, bridge: Any) -> list[tuple[Tensor, Tensor, list[int]]]:
        """Each copy: the bridge's tensor, the plain model's, and which rows of it are copied."""
        return [pair for layer, block in enumerate(bridge.blocks) for pair in _copied(hf, layer, block)]

    @property
    def size(self) -> int:
        """Bytes of the bridge's copies."""
        return sum(copy.numel() * copy.element_size() for copy, _, _ in self.pairs)

    def carry(self) -> None:
        """Copies edits to the other side.

        Raises:
            ModelError: where both sides of a copy were edited differently since the last call.
        """
        apart = [index for index, (mine, theirs, rows) in enumerate(self.pairs) if not torch.equal(mine, theirs[rows])]
        for index in apart:
            mine, theirs, rows = self.pairs[index]
            edited, original = _hash_tensor(mine) != self.hashes[index][0], self._original_edited(index)
            if edited and original:
                raise ModelError("a fused projection was edited both in the bridge and in the plain model; undo one")
            with torch.no_grad():
                if edited:
                    theirs[rows] = mine
                else:
                    mine.copy_(theirs[rows])
        # Hashing takes seconds in large models, and this runs at every access, so only after a copy.
        if apart:
            self.hashes = self._hash()

    def _original_edited(self, index: int) -> bool:
        _, theirs, rows = self.pairs[index]
        return _hash_tensor(theirs[rows]) != self.hashes[index][1]

    def _hash(self) -> list[tuple[bytes, bytes]]:
        return [(_hash_tensor(mine), _hash_tensor(theirs[rows])) for mine, theirs, rows in self.pairs]


def _copied(hf: Any, layer: int, block: Any) -> list[tuple[Tensor, Tensor, list[int]]]:
    """The layer's copies: the bridge's tensor, the fused tensor of the plain model, and which rows it copies."""
    layout = head_layout(hf, layer)
    if layout.fused is None:
        return []
    fused = getattr(layout.attention, layout.fused.projection)
    copies = []
    for projection in "qkv":
        part = getattr(block.attn, projection).original_component
        rows = _split_rows(hf, layout, layer, projection)
        for leaf in ("weight", "bias"):
            mine, theirs = getattr(part, leaf, None), getattr(fused, leaf, None)
            if mine is None or theirs is None or same_storage(mine, theirs):
                continue
            copies.append((mine, theirs, rows))
    return copies


def same_storage(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _hash_tensor(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).digest()


@contextmanager
def _quiet():
    """Silences TransformerLens while it boots, and restores the settings that it changes."""
    from transformers.utils import logging as transformers_logging

    logger, verbosity = logging.getLogger(), transformers_logging.get_verbosity()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)


def run_hooked(
    hooked: Any, tokens: Tensor, mask: Tensor, hooks: Sequence[tuple[str, Hook]], logits: bool = False
) -> Float[Tensor, "batch pos d_vocab"] | None:
    """Runs right-padded prompts through the hooked model with temporary hooks.

    Args:
        hooked: a TransformerBridge or HookedTransformer.
        tokens, mask: [batch, pos], the mask True at real tokens.
        hooks: pairs of hook name and function.
        logits: return all positions' logits; otherwise only one position is unembedded and dropped.

    Raises:
        ModelError: naming a hook point that the model lacks.
    """
    check_hook_points(hooked, [name for name, _ in hooks])
    check_ready(hooked)
    keep = {} if logits or is_hooked_transformer(hooked) else {"logits_to_keep": 1}
    with _patterns_dropped(hooked):
        out = hooked.run_with_hooks(
            tokens, return_type="logits", fwd_hooks=list(hooks), attention_mask=mask.to(tokens).long(), **keep
        )
    return out if logits else None


@contextmanager
def _patterns_dropped(hooked: Any) -> Iterator[None]:
    """Inside, no attention keeps its pattern once its layer is done, as some bridges do (GPT-2, GPT-NeoX, Falcon).

    At 1,024 tokens those of GPT-2 are as large as its weights, and would stay until the next pass.
    """

    def drop(module: Any, inputs: Any, output: Any) -> None:
        module._pattern = None

    handles = [part.register_forward_hook(drop) for part in hooked.modules() if "_pattern" in vars(part)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
