"""Direct logit attribution: what each head, MLP and bias writes straight into the answer's logit difference.

With what enters attention and MLPs held fixed, and the denominators of all norms on the way too, d = logit(No) -
logit(Yes) at the last position is linear in what each part adds to the residual stream: a part's contribution is its
value times the gradient of d along the residual stream. Nothing here knows a family: norms are measured, and the sum is
checked.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from ..bootstrap import DRAWS
from ..errors import ModelError, ResultError
from ..forward import answer_logits
from ..head_table import HeadTable
from ..models import Model, as_model
from ..models.hooked import HookedNetwork
from ..models.slices import head_layout
from ..prompts import Orders, PromptBatch, PromptStyle
from ..restart import decoder_layers
from ..results import Arrays, tensors_of
from ..session import describe_run, resolve_prompts
from ..torch_defaults import under_torch_defaults
from .gradients import difference, frozen_weights, run_rows
from .linear import Terms, bias_hook, detached, linearized_hooks, mlp_hook, norm_hook, on_first
from .norms import LOW_PRECISION_TOLERANCE, TOLERANCE


@dataclass(frozen=True, repr=False)
class DirectLogitAttribution(HeadTable):
    """What every part of the model adds to d = logit(No) - logit(Yes) directly, norms frozen.

    The table holds what the heads add, in logits; above 0: toward No. `.top(k)` lists first those that push most so.

    Args:
        parts: what is no head, a number a row each: "embedding" (token and position), "mlp 3" a layer, "attention
            bias 3" where the output projection has one, "norm biases", "unembedding bias". Rows are the prompts of
            each candidate order, one order after another, as in `per_prompt`.
        d: heads and parts sum to it, row by row. Where a model soft-caps its logits it is the difference before the
            cap, and the run's notes say so.

    Caveat: direct effects only. What a head does through later layers isn't counted, and another head may undo it.
    """

    quantity: str = "direct attribution"
    parts: dict[str, Float[np.ndarray, " row"]] = field(default_factory=dict)
    d: Float[np.ndarray, " row"] = field(default_factory=lambda: np.zeros(0))

    KIND: ClassVar[str] = "direct_attribution"
    EARLIER_KINDS: ClassVar[tuple[str, ...]] = ()
    WRITER: ClassVar[str] = "DirectLogitAttribution.save"

    @property
    def rows(self) -> Float[np.ndarray, "row layer head"]:
        """What the heads add on each row."""
        return np.concatenate(list(self.per_prompt.values()))

    @property
    def total(self) -> Float[np.ndarray, " row"]:
        """The sum of all contributions, which is `d` up to rounding."""
        return self.rows.sum((1, 2), dtype=np.float64) + sum(self.parts.values())

    def diff(self, other: HeadTable) -> "DirectLogitAttribution":
        """This minus another, parts and d too where both asked the same questions."""
        table = super().diff(other)
        if not (table.per_prompt and isinstance(other, DirectLogitAttribution)):
            return replace(table, parts={}, d=np.zeros(0))
        zero = np.zeros_like(self.d)
        names = dict.fromkeys([*self.parts, *other.parts])
        parts = {name: self.parts.get(name, zero) - other.parts.get(name, zero) for name in names}
        return replace(table, parts=parts, d=self.d - other.d)

    def _further_words(self) -> dict[str, Any]:
        return {"parts": {name: values.mean() for name, values in self.parts.items()}, "d": self.d.mean()}

    def _further_arrays(self) -> Arrays:
        return {"d": self.d, **{f"part {name}": values for name, values in self.parts.items()}}

    @classmethod
    def _further_fields(cls, path: str | Path, content: dict[str, Any], arrays: Arrays) -> dict[str, Any]:
        if not arrays:
            raise ResultError(f"{tensors_of(path)} is missing; copy it beside {path}, or compute both again")
        return {"parts": {name: arrays[f"part {name}"] for name in content["parts"]}, "d": arrays["d"]}


@under_torch_defaults
def direct_logit_attribution(
    model: Any,
    data: Any,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = False,
) -> DirectLogitAttribution:
    """Direct logit attribution of every head to d = logit(No) - logit(Yes) at the answer.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        data: prompts (a PromptBatch, or one an order), questions, or a data specification.
        order, style, limit, seed, draws: as for `decide`; prompts that are handed over keep theirs.
        batch_size: prompts in a batch; None takes it from a memory estimate. Out of memory, a batch is halved.
        progress: show a bar.

    Raises:
        ModelError: where the parts don't sum to d, because the residual stream passes something that is neither an
            addition nor a norm; the model is not attributed wrongly instead.

    Source: direct logit attribution as in the field (TransformerLens has it for its own models); not in the paper.
    """
    model, start = as_model(model), time.perf_counter()
    asked = resolve_prompts(model, data, order, style, limit, seed, draws)
    compared = asked.compared_order
    parts = [_collect(model, prompts, batch_size, progress, prompts.order == compared) for prompts in asked]
    per_prompt = {order: part.pop("heads").numpy() for order, part in zip(asked.orders, parts, strict=True)}
    whole = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    notes = ("d is taken before the logits' soft cap",) if _capped(model) else ()
    info = describe_run(model, asked, start, "plain", notes)
    d = whole.pop("d")
    result = DirectLogitAttribution.from_prompts(per_prompt, asked.questions, info, parts=whole, d=d)
    _check_sum(model, result)
    return result


def _check_sum(model: Model, result: DirectLogitAttribution) -> None:
    size = np.abs(result.rows).sum((1, 2)) + sum(np.abs(values) for values in result.parts.values())
    off = np.abs(result.total - result.d) / np.maximum(size, 1.0)
    allowed = TOLERANCE.get(model.dtype, LOW_PRECISION_TOLERANCE)
    if not off.max() <= allowed:
        row = int(off.argmax())
        name = result.ids[row % len(result.ids)]
        raise ModelError(
            f"direct attribution isn't defined for {model.name}: on question {name!r} the parts sum to "
            f"{result.total[row]:.3f} and the logit difference is {result.d[row]:.3f}; something besides "
            f"additions and norms lies on the residual stream. Use estimate_zero_ablation or sweep_heads."
        )


def _collect(
    model: Model, prompts: PromptBatch, batch_size: int | None, progress: bool, held: bool
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def run(rows: list[int]) -> Float[Tensor, " row"] | None:
        parts = _attribute(model, prompts.select(rows))
        for name, values in parts.items():
            whole = found.setdefault(name, torch.zeros(len(prompts), *values.shape[1:]))
            whole[rows] = values.float().cpu()
        # Before a soft cap d is another one than the answer's.
        return None if _capped(model) else parts["d"]

    bar = f"attributing, {prompts.order}" if progress else None
    run_rows(model, prompts, run, graph=False, reference=held, batch_size=batch_size, bar=bar)
    return found


def _attribute(model: Model, batch: PromptBatch) -> dict[str, Tensor]:
    """Contributions of one batch: heads [batch, layer, head], each part [batch], d [batch]."""
    hf = model.network
    with frozen_weights(hf), _linearized(hf) as terms:
        logits = answer_logits(hf, batch, 0, None)
        if _capped(model):
            logits = terms.logits[:, 0].float()
        d = difference(logits, batch)
        gradients = torch.autograd.grad(d.sum(), [on for on, _, _ in terms.items], allow_unused=True)
    found: dict[str, Tensor] = {"d": d.detach()}
    heads = []
    for (on, name, value), gradient in zip(terms.items, gradients, strict=True):
        gradient = torch.zeros_like(on) if gradient is None else gradient
        product = value.detach().float() * gradient.float()
        if name == "heads":
            axes = "head d_value" if product.ndim == 4 else "(head d_value)"
            heads.append(reduce(product, f"batch pos {axes} -> batch head", "sum", head=model.n_heads))
        else:
            found[name] = found.get(name, 0) + reduce(product, "batch ... -> batch", "sum")
    return {"heads": torch.stack(heads, 1), **found}


@contextmanager
def _linearized(hf: Any) -> Iterator[Terms]:
    """Inside, d is linear in the terms: inputs of attention and MLPs are held fixed, norms keep their denominators."""
    if isinstance(hf, HookedNetwork):
        with linearized_hooks(hf) as terms:
            yield terms
        return
    terms, layers = Terms(), decoder_layers(hf)
    with ExitStack() as stack:

        def before(module: nn.Module, hook: Callable, **kwargs: Any) -> None:
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True, **kwargs).remove)

        def after(module: nn.Module, hook: Callable) -> None:
            stack.callback(module.register_forward_hook(hook).remove)

        before(layers[0], lambda module, args, kwargs: on_first(args, kwargs, lambda x: terms.cut("embedding", x)))
        inside: set[nn.Module] = set()
        for number, layer in enumerate(layers):
            layout = head_layout(hf, number)
            mlp = _mlp_of(layer, layout.attention)
            for module in (layout.attention, mlp):
                before(module, lambda module, args, kwargs: detached(args, kwargs))
                inside |= set(module.modules())
            output = layout.attention.get_submodule(layout.output)
            before(output, lambda module, args, kwargs: on_first(args, kwargs, lambda x: terms.cut("heads", x)))
            after(output, bias_hook(terms, f"attention bias {number}"))
            after(mlp, mlp_hook(terms, f"mlp {number}"))
        for module in hf.modules():
            if "norm" in type(module).__name__.lower() and module not in inside:
                after(module, norm_hook(terms))
        unembedding = hf.get_output_embeddings()
        after(unembedding, bias_hook(terms, "unembedding bias"))
        after(unembedding, lambda module, inputs, logits: setattr(terms, "logits", logits))
        yield terms


def _mlp_of(layer: nn.Module, attention: nn.Module) -> nn.Module:
    """The layer's one child with weights that is neither its attention nor a norm."""
    found = [
        child
        for child in layer.children()
        if child is not attention
        and "norm" not in type(child).__name__.lower()
        and any(True for _ in child.parameters())
    ]
    if len(found) != 1:
        kinds = ", ".join(type(child).__name__ for child in found) or "nothing"
        raise ModelError(
            f"{type(layer).__name__} holds {kinds} beside attention and norms, where one MLP is expected; direct "
            f"attribution isn't defined for it. Use estimate_zero_ablation or sweep_heads."
        )
    return found[0]


def _capped(model: Model) -> bool:
    return getattr(model.config, "final_logit_softcapping", None) is not None
