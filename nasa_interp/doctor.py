"""Can this model be scored, by which engine, at what price? Found out by looking and by measuring, not by a list."""

from dataclasses import asdict, dataclass
from typing import Any

from .decisions import LOW_MASS, answer_differences
from .errors import NasaInterpError
from .models import Model, as_model
from .models.check import HookCheck, check_hooks
from .models.slices import group_of
from .models.windows import attention_windows
from .prompts import ORDERS, PromptStyle, build_prompts
from .questions import load_questions
from .run import jsonable

SAMPLE = 16


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    Args:
        family: the model's class.
        n_layers, n_heads: size in heads; `group_sizes` the query heads that share a key and value head, by layer.
        windows: each layer's sliding window, None where attention is full.
        engines: for each engine, None where it is exact, or the reason why it is refused.
        tuning: None where the heads' weights can be tuned, or the reason why not.
        check: the hooks against plain eager attention on one prompt; None where it couldn't run.
        kind, yes_token, no_token: how prompts are written, and the tokens that are compared.
        answer_mass: mean P(Yes) + P(No) over a sample of 16 built-in questions and both orders.
        memory: bytes of weights, and of scoring one prompt of `length` tokens by each engine.
        notes: anything else that a user should know.
    """

    model: str
    family: str
    n_layers: int
    n_heads: int
    group_sizes: list[int]
    windows: list[int | None]
    engines: dict[str, str | None]
    tuning: str | None
    check: HookCheck | None
    kind: str
    yes_token: str
    no_token: str
    answer_mass: float
    length: int
    memory: dict[str, int]
    notes: list[str]

    @property
    def ok(self) -> bool:
        """Whether at least one engine takes the model."""
        return any(reason is None for reason in self.engines.values())

    def text(self) -> str:
        """What a reader wants to know, a line each."""
        heads = f"{self.n_layers} layers x {self.n_heads} heads"
        shared = sorted(set(self.group_sizes))
        if shared and shared != [1]:
            heads += f", {' or '.join(map(str, shared))} query heads share a key and value head"
        windows = sorted({w for w in self.windows if w is not None})
        lines = [f"model       {self.model} ({self.family})", f"heads       {heads}"]
        if windows:
            count = sum(w is not None for w in self.windows)
            lines.append(
                f"windows     {count} of {self.n_layers} layers look back {' or '.join(map(str, windows))} keys"
            )
        for engine, reason in self.engines.items():
            lines.append(f"{engine:<12}{'exact' if reason is None else 'refused: ' + reason}")
        if self.check is not None:
            c = self.check
            lines.append(
                f"self-check  hooks against eager attention: patterns {c.patterns:.1e}, logits {c.logits:.1e} of their "
                f"range; reads {c.reads}"
            )
        lines.append(f"tuning      {'possible' if self.tuning is None else 'refused: ' + self.tuning}")
        lines.append(f"prompts     {self.kind}; compares {self.no_token!r} with {self.yes_token!r}")
        low = "" if self.answer_mass >= LOW_MASS else "  (low: the model means to say something else)"
        lines.append(f"answer mass {self.answer_mass:.2f} on {SAMPLE} built-in questions in both orders{low}")
        sizes = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in self.memory.items())
        lines.append(f"memory      {sizes} (one prompt of {self.length} tokens)")
        return "\n".join([*lines, *(f"note        {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return jsonable(asdict(self) | {"ok": self.ok})


def diagnose(model: Any, length: int = 1024, style: PromptStyle | None = None) -> Diagnosis:
    """Finds out whether a model can be scored and tuned, by which engine, and at what price.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        length: prompt length in tokens for the memory estimate.
        style: wording and candidates.

    Raises:
        NasaInterpError: where not even a prompt can be written for it.
    """
    model = as_model(model)
    questions = load_questions("builtin:verify#probe", limit=SAMPLE)
    batches = [build_prompts(model, questions, order, style) for order in ORDERS]
    first = batches[0]
    check, hooked = _hooked(model, first.tokens[0, : int(first.last_pos[0]) + 1])
    masses = [answer_differences(model, batch, progress=False)[1] for batch in batches]
    return Diagnosis(
        model=model.name,
        family=type(model.module).__name__,
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        group_sizes=_group_sizes(model),
        windows=attention_windows(model),
        engines={"hooked": hooked},
        tuning=tuning_refusal(model),
        check=check,
        kind=first.kind,
        yes_token=model.tokenizer.decode([first.yes_token]),
        no_token=model.tokenizer.decode([first.no_token]),
        answer_mass=float(sum(m.mean() for m in masses) / len(masses)),
        length=length,
        memory=memory_estimate(model, length),
        notes=list(first.notes),
    )


def _hooked(model: Model, tokens: Any) -> tuple[HookCheck | None, str | None]:
    try:
        check = check_hooks(model, tokens)
    except NasaInterpError as error:
        return None, str(error)
    return check, check.problem


def _group_sizes(model: Model) -> list[int]:
    if not model.has_hf:
        return []
    return [len(group_of(model.hf, layer, 0)) for layer in range(model.n_layers)]


def tuning_refusal(model: Model) -> str | None:
    """Why a model's heads can't be tuned, or None."""
    if not model.has_hf:
        return "it was handed over hooked; load_model the transformers model itself"
    if getattr(model.hf, "hf_quantizer", None) is not None or getattr(model.hf, "is_quantized", False):
        return "its weights are quantized; load it unquantized"
    return None


def memory_estimate(model: Model, length: int) -> dict[str, int]:
    """Bytes of the weights, and of one prompt's attention where patterns are materialized (three copies, fp32)."""
    weights = sum(p.numel() * p.element_size() for p in model.module.parameters())
    return {"weights": weights, "hooked": 3 * 4 * model.n_heads * length**2}
