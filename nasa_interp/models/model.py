"""One set of weights with two views: plain transformers (`.hf`) and hooked TransformerLens (`.bridge`)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import ModelError, first_line
from ..mixed_precision import in_bfloat16
from ..served import ServedModel
from .bridge import (
    Copies,
    build_bridge,
    is_bridge,
    is_hooked_transformer,
    plain_twin,
    processed,
    user_hooks,
)
from .hashing import hash_weights
from .hooked import HookedNetwork, hooked_group_size, hooked_slices
from .offload import execution_device, offload_note
from .ready import check_ready, state_notes, unwrapped
from .sizes import HEAD_COUNTS, config_of, first_of, looks_ahead, no_heads_reason
from .slices import WeightSlice, group_of, head_slices, norm_spans_heads

# Two computations of one prompt's logits, as a share of their range, in fp32 and in steps of a narrower dtype.
TWIN_TOLERANCE, TWIN_STEPS = 1e-4, 16
# Tokens on which a bridge's plain view is held to it.
TWIN_TOKENS = 8


class Model:
    """A language model that can be asked, scored and hooked; made by `load_model`.

    The two views share one set of parameters: an edit in place through either shows in both. The hooked view is built
    on first use around a second tree of modules that holds the very same parameter objects, so that hooking, which
    rewires modules, never touches the view that is saved. Where the user hands over a bridge, the plain view is built
    around it in the same way, and serves as long as it computes what the bridge does.

    Args:
        name: what the user called it.
        hf: the transformers model; None where the user passed a hooked model.
        tokenizer: its fast tokenizer.
        hooked: the user's own TransformerBridge or HookedTransformer; None to build one on demand.
        license: the licence that travels with an exported copy, where known.
        mixed: decisions multiply in bfloat16 beside float32 weights. Only a plain model's do, and attention is read and
            weights are validated in float32 all the same.
    """

    def __init__(
        self,
        name: str,
        hf: Any,
        tokenizer: Any,
        hooked: Any = None,
        license: str | None = None,
        mixed: bool = False,
    ):
        if hf is None and hooked is None:
            raise ModelError(f"model {name!r} has neither a plain nor a hooked view; load it with load_model")
        if reason := no_heads_reason(config_of(hf, hooked)):
            raise ModelError(f"model {name!r} can't be scored: {reason}; take a decoder-only transformer")
        if hf is not None and looks_ahead(hf):
            raise ModelError(
                f"model {name!r} can't be scored: its attention looks ahead ({type(hf).__name__}), so that no "
                f"answer follows "
                f"from a prompt; take a decoder-only transformer"
            )
        self.name = name
        self.tokenizer = tokenizer
        self.license = license
        self.mixed = mixed
        self._hf: Any = hf
        self._hooked: Any = hooked
        # The model that the user handed over, or the fallback, is the hooked one.
        self.handed_hooked = hf is None
        self._refusal: str | None = None
        self._copies: Copies | None = None
        self._measured: str | None = None
        # Of weights on disk, by where they lie.
        self._hashes: dict[str, str] = {}
        # The bridge's parameters as it was built; an edit in place shows in both views, another object in one.
        self._shared: list[Any] = []
        # The wrapper around the plain model, if the user passed one; its own hooks would not run.
        self._wrapper: Any = None
        if self.handed_hooked:
            self._find_plain_view()

    def _find_plain_view(self) -> None:
        """A plain model over the parameters of the bridge that was handed over, measured against it."""
        self._hf, self._copies, self._measured = plain_twin(self._hooked), None, None
        self._shared = list(self._hooked.parameters())
        if self._names is None:
            return
        try:
            self._copies = Copies(self._hf, self._hooked)
        except ModelError:
            # Heads of an unknown layout: the plain view still answers, and slices refuse where they are asked for.
            self._copies = None

    @property
    def hf(self) -> Any:
        """The plain transformers model."""
        if self._hf is None or (reason := self.why_hooked):
            reason = "it is a HookedTransformer" if self._hf is None else reason
            raise ModelError(
                f"model {self.name!r} was handed over hooked and has no plain transformers view: {reason}; "
                f"load_model the transformers model itself"
            )
        if self._copies:
            self._copies.carry()
        return self._hf

    @property
    def bridge(self) -> Any:
        """The hooked model: a TransformerBridge, or the HookedTransformer that the user passed."""
        if self._hooked is None:
            bridge = build_bridge(self._hf, self.tokenizer, self.name)
            self._copies, self._hooked = Copies(self._hf, bridge), bridge
            self._shared = list(bridge.parameters())
        elif self._copies:
            self._copies.carry()
        return self._hooked

    @property
    def copied_bytes(self) -> int:
        """Bytes of weights that the hooked view holds besides the plain one's, once it is built."""
        return self._copies.size if self._copies else 0

    @property
    def has_hf(self) -> bool:
        """Whether there is a plain view that computes what the model that was handed over does."""
        return self._hf is not None and self.why_hooked is None

    @property
    def why_hooked(self) -> str | None:
        """Why passes run through hooks, or None where a plain view runs them; asked anew each time."""
        if not self.handed_hooked:
            return None
        if self._refusal is not None:
            return self._refusal
        if self._hf is None:
            kind = type(self._hooked).__name__
            return f"it was handed over as a {kind} without a transformers model inside"
        if processed(self._hooked):
            return "TransformerLens processed its weights"
        if hung := self.user_hooks:
            return f"hooks of the user's on {', '.join(hung[:3])}"
        if self._measured is None:
            self._measured = self._apart()
        return self._measured or None

    @property
    def user_hooks(self) -> list[str]:
        """Names of the hook points and modules of a model handed over hooked that the user's own hooks hang on."""
        return user_hooks(self._hooked) if self.handed_hooked else []

    @torch.no_grad()
    def _apart(self) -> str:
        """Why the plain view can't stand for the bridge, by one short prompt through both; empty where it can."""
        tokens = torch.arange(TWIN_TOKENS, device=self.device)[None] % self.config.vocab_size
        try:
            plain, bridged = self._hf(tokens, use_cache=False).logits.float(), self._hooked(tokens).float()
        except Exception as error:  # whatever a foreign module raises when it is hung into another tree
            return f"its plain view fails ({type(error).__name__}: {first_line(error)})"
        off, reach = (plain - bridged).abs().max(), bridged.max() - bridged.min()
        allowed = max(TWIN_TOLERANCE, TWIN_STEPS * torch.finfo(self.dtype).eps) * reach
        return "" if off <= allowed else f"its plain view's logits are off by {float(off / reach):.1e} of their range"

    @property
    def why_not_plain(self) -> str | None:
        """Why the weights aren't those of a plain transformers model, or None; hooks don't matter to them."""
        if self._hf is None:
            return f"it is a {type(self._hooked).__name__} without a transformers model inside"
        if self.handed_hooked and processed(self._hooked):
            return "TransformerLens processed its weights"
        return None

    @property
    def network(self) -> Any:
        """What passes run through: the plain view, or where it can't stand for it the hooked model."""
        return self.hf if self.has_hf else HookedNetwork(self._hooked, self._names)

    @property
    def engine(self) -> Literal["fused", "hooked"]:
        """How passes through the network compute attention: fused, or through hooks."""
        return "fused" if self.has_hf else "hooked"

    def through_hooks(self, reason: str) -> "Model":
        """The same weights, with passes through the hooked view; `reason` says why."""
        hooked = Model.__new__(Model)
        hooked.__dict__.update(self.__dict__, _hooked=self.bridge, handed_hooked=True, _refusal=reason)
        return hooked

    @property
    def weights(self) -> Any:
        """The module that names the weights in hashes, slices and deltas: the plain one where there is any."""
        if self._copies and self._names is not None:
            self._copies.carry()
        return self._hooked if self._names is None else self._names

    @property
    def _names(self) -> Any:
        """The plain model whose names the weights have; None where a bridge computes with others, processed ones."""
        return None if self.handed_hooked and processed(self._hooked) else self._hf

    def head_slices(self, layer: int, index: int, projections: str = "q", bias: bool = False) -> list[WeightSlice]:
        """The slices of a head's weights; see `head_slices` and `hooked_slices`."""
        slices = hooked_slices if self._names is None else head_slices
        return slices(self.weights, layer, index, projections, bias)

    def group_of(self, layer: int, index: int) -> tuple[int, ...]:
        """The query heads that share the head's key and value head, itself among them."""
        if self._names is not None:
            return group_of(self.weights, layer, index)
        size = hooked_group_size(self._hooked)
        return tuple(range(index - index % size, index - index % size + size))

    def norm_spans_heads(self, layer: int) -> bool:
        """Whether the queries of all heads are normed together; a HookedTransformer's never are."""
        return self._names is not None and norm_spans_heads(self.weights, layer)

    @property
    def config(self) -> Any:
        """The transformers configuration of the text model; TransformerLens's own for a HookedTransformer."""
        return config_of(self._hf, self._hooked)

    @property
    def n_layers(self) -> int:
        """Number of layers with attention heads."""
        return first_of(self.config, ("num_hidden_layers", "n_layers", "n_layer"))

    @property
    def n_heads(self) -> int:
        """Number of query heads in a layer."""
        return first_of(self.config, HEAD_COUNTS)

    @property
    def context_length(self) -> int | None:
        """The longest prompt in tokens, or None where the configuration doesn't say."""
        return first_of(self.config, ("max_position_embeddings", "n_ctx", "n_positions"), default=None)

    @property
    def module(self) -> torch.nn.Module:
        """The model that was handed over; the hooked one for what runs through hooks."""
        return self._hooked if self.handed_hooked else self._hf

    @property
    def device(self) -> torch.device:
        """Where tokens go: where the first parameter lives that is in memory."""
        return device_of(self.module)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(p.dtype for p in self.module.parameters() if p.is_floating_point())

    @property
    def arithmetic(self) -> torch.dtype:
        """The dtype that decisions multiply in."""
        return torch.bfloat16 if self.mixed and self.has_hf else self.dtype

    def deciding(self) -> AbstractContextManager[None]:
        """Inside, passes multiply as decisions do."""
        return in_bfloat16(self.hf, self.device) if self.mixed and self.has_hf else nullcontext()

    def exact(self) -> "Model":
        """The same weights, whose decisions multiply in the weights' own dtype."""
        if not self.mixed:
            return self
        exact = Model.__new__(Model)
        exact.__dict__.update(self.__dict__, mixed=False)
        return exact

    def weights_hash(self) -> str:
        """SHA-256 over every named tensor of the current weights, whichever view they were edited through.

        Computed anew each time (about 2 s per billion bytes), as edits through `.data` leave no other trace. Offloaded
        weights are read from their files one by one, once, and give the hash of the same model in memory; empty where
        some can't be read.
        """
        return hash_weights(self.weights, self._hashes)

    @torch.no_grad()
    def answer_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch d_vocab"]:
        """Logits at each prompt's last real token; only positions that end some prompt are unembedded.

        Args:
            tokens: right-padded prompts; without padding the answers equal those of each prompt alone.
            mask: True at real tokens.

        Raises:
            ModelError: a model in training mode.

        Returns:
            Logits in fp32 on the CPU.
        """
        check_ready(self.module)
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        last = mask.sum(1) - 1
        ends, end_index = torch.unique(last, return_inverse=True)
        if is_hooked_transformer(self.module):
            logits = self.module(tokens, attention_mask=mask.long())[:, ends]
        elif not self.handed_hooked:
            logits = self._hf(tokens, attention_mask=mask.long(), use_cache=False, logits_to_keep=ends).logits
        else:
            logits = self._hooked(tokens, attention_mask=mask.long(), logits_to_keep=ends)
        return logits[torch.arange(len(tokens), device=logits.device), end_index.to(logits.device)].float().cpu()

    def check_views(self) -> None:
        """Refuses hooks and replaced parameters on the bridge built here: only the plain view runs, and it lacks them.

        Raises:
            ModelError: saying where to put the hooks.
        """
        if self._wrapper is not None:
            unwrapped(self._wrapper)
        if self._hooked is None:
            return
        now = list(self._hooked.parameters())
        replaced = len(now) != len(self._shared) or any(a is not b for a, b in zip(now, self._shared, strict=True))
        if self.handed_hooked:
            # Tensors in their parameters' places are tuning under way.
            if replaced and self._refusal is None and all(isinstance(p, torch.nn.Parameter) for p in now):
                self._find_plain_view()
            return
        if replaced:
            raise ModelError(
                f"a parameter of {self.name!r}'s bridge was replaced, which its plain view doesn't see; write into the "
                f"parameter (weight.data[:] = ...), or hand over the bridge itself: load_model(model.bridge)"
            )
        if hooks := user_hooks(self._hooked):
            raise ModelError(
                f"model {self.name!r} has hooks on its bridge ({', '.join(hooks[:3])}), which its plain view doesn't "
                f"run; take them off (model.bridge.reset_hooks()), hang them on model.hf, or hand over the bridge "
                f"itself: load_model(model.bridge)"
            )

    def state_notes(self) -> tuple[str, ...]:
        """What a result should say of the model besides its weights: hooks of the user's, adapters."""
        if not self.handed_hooked:
            elsewhere = offload_note(self.hf)
            return (*([elsewhere] if elsewhere else []), *state_notes(self.hf))
        if (why := self.why_hooked) is None:
            return ("handed over as a bridge, run on its plain view: the same weights", *state_notes(self.hf))
        hung = [] if why.startswith("hooks of") else self.user_hooks
        return (f"run through hooks: {why}", *([f"hooks of the user's on {', '.join(hung[:3])}"] if hung else []))

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.n_layers} layers x {self.n_heads} heads, {self.dtype}, {self.device})"


def device_of(module: Any) -> torch.device:
    """Where tokens go: where the first parameter lives that is in memory; without any, where they are fetched to."""
    here = next((parameter.device for parameter in module.parameters() if not parameter.is_meta), None)
    return here or execution_device(module) or torch.device("cpu")


def as_model(model: Any, tokenizer: Any = None) -> Model:
    """A Model from a Model, a transformers model, a TransformerBridge or a HookedTransformer.

    A PEFT model counts as the transformers model inside, where its adapters are LoRA.

    Raises:
        ModelError: for any other type, a model in training mode, a wrapper or adapter that changes the prompt itself,
            or a transformers model without its tokenizer.
    """
    if isinstance(model, Model):
        model.check_views()
        return model
    if isinstance(model, ServedModel):
        raise ModelError(
            f"{model.name} is behind an address, and this needs what is inside a model; load the model itself: a GGUF "
            f"file, a folder or a hub id (served models take decide, calibrate and decide_by_generation)"
        )
    wrapper, model = model, unwrapped(model)
    if is_bridge(model) or is_hooked_transformer(model):
        tokenizer = tokenizer or getattr(model, "tokenizer", None)
        name = getattr(model.cfg, "model_name", None) or type(model).__name__
        if tokenizer is None:
            raise ModelError(f"the hooked model {name!r} has no tokenizer; pass load_model(model, tokenizer=...)")
        return Model(name, None, tokenizer, hooked=model)
    if isinstance(model, PreTrainedModel):
        check_ready(model)
        if model.get_output_embeddings() is None:
            raise ModelError(
                f"{type(model).__name__} has no language-model head; load it with AutoModelForCausalLM, or by its name"
            )
        if tokenizer is None:
            raise ModelError(
                f"a transformers model ({type(model).__name__}) doesn't know its tokenizer; "
                f"wrap both: load_model(model, tokenizer=tokenizer)"
            )
        result = Model(model.config.name_or_path or type(model).__name__, model, tokenizer)
        result._wrapper = None if wrapper is model else wrapper
        return result
    for inside in ("_orig_mod", "module", "pretrained_model"):
        if isinstance(getattr(model, inside, None), PreTrainedModel):
            raise ModelError(
                f"{type(model).__name__} wraps a model that would run without it; hand over the model inside: .{inside}"
            )
    raise ModelError(
        f"{type(model).__name__} is not a model; give a name for load_model, a transformers causal language model, "
        f"or a TransformerBridge"
    )
