"""One prompt under the lens: what chosen heads attend to, and which queries contribute to their score."""

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from ..errors import HeadError
from ..heads import Head
from ..prompts import Order
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo
from .local import LocalPage


@dataclass(frozen=True, repr=False)
class HeadView:
    """Attention of chosen heads on one prompt, from the counted queries to all tokens.

    Args:
        question: the question's text.
        order: the order of the candidates in the instruction.
        tokens: the prompt's tokens as text.
        first_query: position of the first query; the queries run from there to the prompt's end.
        yes_span, no_span: positions of the candidates, start and end (exclusive).
        heads: the heads in the order of the first axis.
        attention: attention after the softmax, [head, query, key].
        contributions: each query's term of the head's NAS, in nats, [head, query]; above 0 means toward No; NaN where
            a query can't see a candidate and so doesn't count.
        logit_difference: logit(No) - logit(Yes) at the answer; below 0 the model says Yes.
        run: where it came from.

    Source: the terms are those of the paper's NAS; the view is ours.
    """

    question: str
    order: Order
    tokens: tuple[str, ...]
    first_query: int
    yes_span: tuple[int, int]
    no_span: tuple[int, int]
    heads: tuple[Head, ...]
    attention: Float[np.ndarray, "head query key"]
    contributions: Float[np.ndarray, "head query"]
    logit_difference: float
    run: RunInfo = field(repr=False)

    @property
    def nas(self) -> Float[np.ndarray, " head"]:
        """Each head's NAS on this prompt: the sum of its queries' contributions; NaN where none counts."""
        total = np.nansum(self.contributions, axis=1)
        return np.where(np.isnan(self.contributions).all(axis=1), np.nan, total)

    @property
    def received(self) -> Float[np.ndarray, "head key"]:
        """Mean attention that the queries pay to each token."""
        return self.attention.mean(axis=1)

    def place(self, head: Any) -> int:
        """The head's row; raises HeadError where it isn't in the view."""
        wanted = Head.parse(head)
        if wanted not in self.heads:
            raise HeadError(f"head {wanted} is not in this view; it holds {', '.join(map(str, self.heads))}")
        return self.heads.index(wanted)

    def role(self, position: int) -> str:
        """What a token is: "yes" or "no" (the candidates), "query", or "" (before the first query)."""
        for name, (start, end) in (("yes", self.yes_span), ("no", self.no_span)):
            if start <= position < end:
                return name
        return "query" if position >= self.first_query else ""

    def to_dataframe(self) -> pd.DataFrame:
        """One row per head and query: head, position, token, attention to both candidates, contribution."""
        spans = [self.attention[:, :, slice(*span)].mean(axis=2) for span in (self.yes_span, self.no_span)]
        rows = [
            (str(head), self.first_query + j, self.tokens[self.first_query + j], spans[0][i, j], spans[1][i, j], term)
            for i, head in enumerate(self.heads)
            for j, term in enumerate(self.contributions[i])
        ]
        columns = ["head", "position", "token", "attention_yes", "attention_no", "contribution"]
        return pd.DataFrame(rows, columns=columns)

    def to_figure(self, head: Any = None) -> go.Figure:
        """A plotly figure: a summary of all heads, or the whole pattern of one head."""
        from .figure import brief, pattern

        return brief(self) if head is None else pattern(self, self.place(head))

    def to_html(self) -> str:
        """The prompt's text, once per head, shaded by attention; plain HTML without a script."""
        from .markup import STYLE, strips

        return f"<style>{STYLE}</style>{strips(self)}"

    def to_circuitsvis(self) -> LocalPage:
        """CircuitsVis's view of the attention patterns, with its script inside; it needs no server."""
        from .circuits import circuitsvis_page

        return circuitsvis_page(self)

    def save(self, path: str | Path) -> Path:
        """Writes JSON; raises as `write_result` does."""
        return write_result(
            path,
            {
                "kind": "head_view",
                "question": self.question,
                "order": self.order,
                "tokens": self.tokens,
                "first_query": self.first_query,
                "yes_span": self.yes_span,
                "no_span": self.no_span,
                "heads": [str(head) for head in self.heads],
                "logit_difference": self.logit_difference,
                "contributions": self.contributions,
                "attention": self.attention,
                "run": self.run.to_dict(),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> "HeadView":
        """Reads what `save` wrote; raises ResultError where it can't."""
        content = read_result(path, "head_view", "a view of heads", "save one with HeadView.save")
        with parsing_result(path, "make the view again", HeadError):
            return cls(
                **{name: content[name] for name in ("question", "order", "first_query")},
                tokens=tuple(content["tokens"]),
                yes_span=(content["yes_span"][0], content["yes_span"][1]),
                no_span=(content["no_span"][0], content["no_span"][1]),
                heads=tuple(Head.parse(name) for name in content["heads"]),
                attention=np.array(content["attention"], dtype=object).astype(np.float32),
                contributions=np.array(content["contributions"], dtype=object).astype(np.float32),
                logit_difference=float(content["logit_difference"]),
                run=RunInfo.from_dict(content["run"]),
            )

    def __repr__(self) -> str:
        scores = ", ".join(f"{head} {nas:+.2f}" for head, nas in zip(self.heads, self.nas, strict=True))
        return (
            f"HeadView({self.question!r}, order {self.order}, {len(self.tokens)} tokens, "
            f"{len(self.tokens) - self.first_query} queries; NAS {scores})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_html()}"
