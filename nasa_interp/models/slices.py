"""Where a head's weights are in a plain transformers model: rows or columns of the attention's parameters.

A family stores its projections in one of three ways: four modules (`q_proj`, `k_proj`, `v_proj` and an output
projection), or queries, keys and values fused into one module, as three blocks (GPT-2, Phi-3) or group by group, the
queries of a group before its key and its value (GPT-NeoX with groups of one head, Falcon). Linear modules hold a head's
outputs in rows, GPT-2's `Conv1D` in columns. The number of key and value heads is read off the shapes, so that
multi-head, grouped and multi-query attention are one case.

Caveat: where queries and keys are normed over all heads together (OLMo 2), a head's query rows also scale the other
heads; `norm_spans_heads` tells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..errors import HeadError, ModelError

PROJECTIONS = "qkvo"

SEPARATE = ("q_proj", "k_proj", "v_proj")

OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj")


@dataclass(frozen=True)
class Fused:
    """How one attention class fuses its queries, keys and values.

    Args:
        projection: name of the fused module.
        by_group: True where each group's queries, key and value lie together; False for three blocks.
    """

    projection: str
    by_group: bool


# A fused module's name doesn't tell the order of its rows, so its class must be known.
FUSED = {
    "GPT2Attention": Fused("c_attn", by_group=False),
    "Phi3Attention": Fused("qkv_proj", by_group=False),
    "MptAttention": Fused("Wqkv", by_group=False),
    "GPTBigCodeAttention": Fused("c_attn", by_group=True),
    "GPTNeoXAttention": Fused("query_key_value", by_group=True),
    "FalconAttention": Fused("query_key_value", by_group=True),
    "BloomAttention": Fused("query_key_value", by_group=True),
    "PersimmonAttention": Fused("query_key_value", by_group=True),
}


@dataclass(frozen=True)
class WeightSlice:
    """Some rows or columns of one parameter.

    Args:
        parameter: its name in the model's own state dict.
        dim: the dimension that is sliced.
        index: positions along `dim`, ascending.
    """

    parameter: str
    dim: int
    index: tuple[int, ...]


@dataclass(frozen=True)
class HeadLayout:
    """One layer's attention as heads: counts, head size, and where its projections are.

    Args:
        name: the attention module's name in the model.
        attention: the module itself.
        heads: query heads.
        groups: key and value heads.
        d_head: size of a head.
        fused: how queries, keys and values are fused; None where they are separate.
        output: name of the output projection within the attention module.
    """

    name: str
    attention: nn.Module
    heads: int
    groups: int
    d_head: int
    fused: Fused | None
    output: str

    def module(self, projection: str) -> str:
        """Name of the module, within the attention module, that holds the projection ("q", "k", "v" or "o")."""
        if projection == "o":
            return self.output
        return self.fused.projection if self.fused else SEPARATE[PROJECTIONS.index(projection)]

    def start(self, projection: str, head: int) -> int:
        """First row of the head's (for keys and values: its group's) share of the projection."""
        per_group = self.heads // self.groups
        group, rank = divmod(head, per_group)
        if projection == "o" or not self.fused:
            unit = head if projection in "qo" else group
        elif self.fused.by_group:
            unit = group * (per_group + 2) + {"q": rank, "k": per_group, "v": per_group + 1}[projection]
        else:
            unit = {"q": head, "k": self.heads + group, "v": self.heads + self.groups + group}[projection]
        return unit * self.d_head


def check_projections(projections: Sequence[str]) -> None:
    """Raises ModelError for the first letter that names no projection."""
    if unknown := set(projections) - set(PROJECTIONS):
        raise ModelError(f"no projection {sorted(unknown)[0]!r}; projections are letters out of {PROJECTIONS!r}")


def head_slices(
    model: PreTrainedModel, layer: int, index: int, projections: Sequence[str] = "q", bias: bool = False
) -> list[WeightSlice]:
    """The rows and columns that belong to one head, in the names and dimensions of the model's own state dict.

    Args:
        model: a plain transformers causal language model, not a bridge.
        layer: of the head.
        index: of the head within its layer, among the query heads.
        projections: letters out of "qkvo".
        bias: also the bias entries, if the projection has a bias.

    Returns:
        one slice per projection, in the order given; each bias slice follows its weight. Key and value slices belong
        to the head's whole group (`group_of`). The output projection's bias belongs to no head and is never there.

    Raises:
        HeadError: no such head. ModelError: no such projection, or attention of an unknown layout.

    Caveat:
        with norms over all heads together (`norm_spans_heads`) query and key slices also act on other heads.
    """
    check_projections(projections)
    layout = head_layout(model, layer)
    _check_head(layout, layer, index)
    return [slice for projection in projections for slice in _slices(layout, projection, index, bias)]


def group_of(model: PreTrainedModel, layer: int, index: int) -> tuple[int, ...]:
    """The query heads that share the head's key and value head, including the head itself.

    Raises:
        HeadError: no such head. ModelError: attention of an unknown layout.
    """
    layout = head_layout(model, layer)
    _check_head(layout, layer, index)
    per_group = layout.heads // layout.groups
    first = index - index % per_group
    return tuple(range(first, first + per_group))


def norm_spans_heads(model: PreTrainedModel, layer: int) -> bool:
    """Whether the queries of all heads are normed together, so that one head's query rows scale the others' (OLMo 2).

    A norm of each head by itself (Qwen 3, Gemma 3) does not count.
    """
    layout = head_layout(model, layer)
    weight = getattr(getattr(layout.attention, "q_norm", None), "weight", None)
    return weight is not None and layout.heads > 1 and tuple(weight.shape) == (layout.heads * layout.d_head,)


def attention_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Name and attention module of every decoder layer, in the order of the layers.

    Raises:
        ModelError: an encoder-decoder model, a layer without attention, or attention of an unknown layout.
    """
    if model.config.is_encoder_decoder:
        raise ModelError(
            f"{type(model).__name__} has an encoder and a decoder; heads are defined for decoder-only models"
        )
    name, layers = _layer_list(model)
    return dict(_find_attention(f"{name}.{number}", layer) for number, layer in enumerate(layers))


def head_layout(model: PreTrainedModel, layer: int) -> HeadLayout:
    """How the layer's attention is divided into heads.

    Raises:
        HeadError: no such layer. ModelError: attention of an unknown layout.
    """
    modules = list(attention_modules(model).items())
    if not 0 <= layer < len(modules):
        raise HeadError(f"no layer {layer} in {type(model).__name__}; it has layers 0 to {len(modules) - 1}")
    name, attention = modules[layer]
    fused = _fused(attention)
    output = next(name for name in OUTPUTS if hasattr(attention, name))
    heads = getattr(attention, "num_heads", None) or model.config.get_text_config().num_attention_heads
    d_head = _size(getattr(attention, output), "in") // heads
    if fused:
        groups = (_size(getattr(attention, fused.projection), "out") // d_head - heads) // 2
    else:
        groups = _size(attention.get_submodule("k_proj"), "out") // d_head
    layout = HeadLayout(name, attention, heads, groups, d_head, fused, output)
    _check_sizes(layout)
    return layout


def _slices(layout: HeadLayout, projection: str, head: int, bias: bool) -> Iterator[WeightSlice]:
    """The weight slice of one projection, then its bias slice, if wanted and present."""
    name = layout.module(projection)
    module = getattr(layout.attention, name)
    start = layout.start(projection, head)
    index = tuple(range(start, start + layout.d_head))
    # Heads are inputs of the output projection and outputs of the others; Conv1D stores the transpose of Linear.
    dim = int((projection == "o") != isinstance(module, Conv1D))
    yield WeightSlice(f"{layout.name}.{name}.weight", dim, index)
    if bias and projection != "o" and module.bias is not None:
        yield WeightSlice(f"{layout.name}.{name}.bias", 0, index)


def _layer_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The outermost list with one module per layer of the configuration; the text decoder is searched first."""
    count = model.config.get_text_config().num_hidden_layers
    modules, decoder = list(model.named_modules()), model.get_decoder()
    text = next((name for name, module in modules if module is decoder), "")
    # An image encoder may have as many layers, and come first.
    modules.sort(key=lambda named: not f"{named[0]}.".startswith(f"{text}."))
    for name, module in modules:
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ModelError(
        f"{type(model).__name__} holds no list of {count} layers; load it as a decoder-only language model "
        "(AutoModelForCausalLM)"
    )


def _find_attention(name: str, layer: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the layer's attention: the one that knows its layer and has projections of a known layout."""
    candidates = {n: m for n, m in layer.named_modules(prefix=name) if m is not layer and hasattr(m, "layer_idx")}
    for candidate, module in candidates.items():
        has_inputs = _fused(module) or all(hasattr(module, projection) for projection in SEPARATE)
        if has_inputs and any(hasattr(module, output) for output in OUTPUTS):
            return candidate, module
    seen, module = next(iter(candidates.items()), (name, layer))
    raise _unknown_layout(seen, module)


def _fused(attention: nn.Module) -> Fused | None:
    """The fused layout of the module's class or of a base class."""
    names = (cls.__name__ for cls in type(attention).__mro__)
    return next((FUSED[name] for name in names if name in FUSED), None)


def _size(module: nn.Module, side: str) -> int:
    """Number of inputs ("in") or outputs ("out") of a Linear or Conv1D module."""
    return module.get_parameter("weight").shape[int((side == "in") != isinstance(module, Conv1D))]


def _check_sizes(layout: HeadLayout):
    """Refuses projections whose size doesn't match their heads: gates next to the queries, varying head sizes."""
    units = {"q": layout.heads, "k": layout.groups, "v": layout.groups, "o": layout.heads}
    if layout.fused:
        units = {"q": layout.heads + 2 * layout.groups, "o": layout.heads}
    fits = layout.groups > 0 and layout.heads % layout.groups == 0
    for projection, count in units.items():
        module = getattr(layout.attention, layout.module(projection))
        fits = fits and _size(module, "in" if projection == "o" else "out") == count * layout.d_head
    if not fits:
        raise _unknown_layout(layout.name, layout.attention)


def _check_head(layout: HeadLayout, layer: int, index: int):
    if not 0 <= index < layout.heads:
        raise HeadError(f"no head {layer}.{index}; layer {layer} has heads 0 to {layout.heads - 1}")


def _unknown_layout(name: str, module: nn.Module) -> ModelError:
    shapes = ", ".join(f"{n} {tuple(p.shape)}" for n, p in module.named_parameters())
    return ModelError(
        f"can't tell heads in {name} ({type(module).__name__}), whose parameters are {shapes}; "
        "use a model with q_proj, k_proj, v_proj and an output projection, or add its class to FUSED in "
        "nasa_interp/models/slices.py"
    )
