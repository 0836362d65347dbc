"""What a change to a model cost on plain text: perplexity before and after, and how far its predictions moved."""

import html
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..bootstrap import draw_weights, interval
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo

# Below this a token is practically impossible; two models that both rule it out must not give inf - inf.
LEAST_LOG_PROB = -300.0

# The columns of the file, and whether they count something.
COLUMNS = {"tokens": True, "loss_before": False, "loss_after": False, "sampled": True, "divergence": False}


def kl_divergence(base: Float[Tensor, "pos d_vocab"], now: Float[Tensor, "pos d_vocab"]) -> Float[Tensor, " pos"]:
    """KL(base || now) in nats from log-probabilities, at each position, in fp64.

    Summed as p (ln p - ln q) - p + q, whose terms are never negative: rounding can't push it below 0, and it is exactly
    0 where both are the same.
    """
    base, now = (side.double().clamp_min(LEAST_LOG_PROB) for side in (base, now))
    difference = base - now
    return (base.exp() * (difference + torch.expm1(-difference))).sum(-1)


@dataclass(frozen=True, repr=False)
class TextChange:
    """What a change to a model cost on plain text, passage by passage.

    Args:
        tokens: predicted tokens of each passage.
        loss_before, loss_after: their mean negative log-likelihood in nats, before and after the change.
        sampled: positions of each passage at which the full distributions were compared.
        divergence: mean KL(before || after) there, in nats.
        base, run: where both came from.
    """

    tokens: Int[np.ndarray, " text"]
    loss_before: Float[np.ndarray, " text"]
    loss_after: Float[np.ndarray, " text"]
    sampled: Int[np.ndarray, " text"]
    divergence: Float[np.ndarray, " text"]
    base: RunInfo = field(repr=False)
    run: RunInfo = field(repr=False)

    @cached_property
    def _interval(self) -> tuple[float, float]:
        """Paired: a draw takes a passage's tokens both before and after the change."""
        weights = draw_weights(np.arange(len(self.tokens)), self.run.draws, self.run.seed) * self.tokens
        low, high = interval(np.exp(weights @ (self.loss_after - self.loss_before) / weights.sum(1)))
        return float(low), float(high)

    before = property(lambda self: math.exp(self._mean(self.loss_before)), doc="Perplexity before the change.")
    after = property(lambda self: math.exp(self._mean(self.loss_after)), doc="Perplexity after the change.")
    ratio = property(
        lambda self: math.exp(self._mean(self.loss_after - self.loss_before)), doc="Perplexity after / before."
    )
    low = property(lambda self: self._interval[0], doc="Lower end of the ratio's bootstrap interval (95%, passages).")
    high = property(lambda self: self._interval[1], doc="Upper end of the ratio's bootstrap interval (95%, passages).")
    kl = property(
        lambda self: float(np.average(self.divergence, weights=self.sampled)),
        doc="Mean KL(before || after) over the sampled positions, in nats.",
    )

    def _mean(self, values: Float[np.ndarray, " text"]) -> float:
        return float(np.average(values, weights=self.tokens))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per passage: tokens, loss_before, loss_after, sampled, divergence."""
        return pd.DataFrame({name: getattr(self, name) for name in COLUMNS})

    def save(self, path: str | Path) -> Path:
        """Writes JSON: the summary for readers, the passages for `load`; raises as `write_result` does."""
        return write_result(
            path,
            {
                "kind": "text_change",
                "before": self.before,
                "after": self.after,
                "ratio": self.ratio,
                "interval": [self.low, self.high],
                "kl": self.kl,
                "base": self.base.to_dict(),
                "run": self.run.to_dict(),
                "passages": self.to_dataframe().to_dict(orient="records"),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> "TextChange":
        """Reads what `save` wrote; raises ResultError where it can't."""
        content = read_result(
            path,
            "text_change",
            "what a change did to plain text",
            "save one with TextChange.save",
            earlier=("text_price",),
        )
        with parsing_result(path, "compare again"):
            rows = content["passages"]
            columns = {
                name: np.array([row[name] for row in rows], dtype=np.int64 if counts else np.float64)
                for name, counts in COLUMNS.items()
            }
            return cls(**columns, base=RunInfo.from_dict(content["base"]), run=RunInfo.from_dict(content["run"]))

    def __repr__(self) -> str:
        return (
            f"TextChange({self.run.model}, {self.run.data}, {len(self.tokens)} passages, {self.tokens.sum()} tokens: "
            f"perplexity {self.before:.2f} -> {self.after:.2f}, ratio {self.ratio:.4f} "
            f"[{self.low:.4f}, {self.high:.4f}], KL {self.kl:.2g} nats)"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_dataframe().to_html(float_format='%.4f')}"
