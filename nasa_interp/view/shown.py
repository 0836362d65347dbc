"""A prompt as a page shows it: what every head pays to each token and what each query adds, without the patterns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import HeadError
from ..heads import Head
from ..prompts import Order
from .marks import leans, shades
from .markup import visible
from .value import HeadView


@dataclass(frozen=True, repr=False, eq=False)
class ShownPrompt:
    """One prompt under many heads, small enough to be kept for all heads of a model.

    Args:
        question: the question's text.
        order: the order of the candidates in the instruction.
        tokens: the prompt's tokens as text.
        roles: of each token: "yes", "no", "query" or "".
        first_query: position of the first query.
        heads: the heads in the order of the first axis.
        received: mean attention that the queries pay to each token, [head, key].
        contributions: what each query adds to NAS, in nats, [head, query]; NaN where it doesn't count.
        logit_difference: logit(No) - logit(Yes) at the answer.

    Source: the terms are those of the paper's NAS; the summary is ours.
    """

    question: str
    order: Order
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    first_query: int
    heads: tuple[Head, ...]
    received: Float[np.ndarray, "head key"]
    contributions: Float[np.ndarray, "head query"]
    logit_difference: float

    @classmethod
    def of(cls, view: HeadView) -> "ShownPrompt":
        """What a page needs of a view."""
        return cls(
            **{name: getattr(view, name) for name in ("question", "order", "tokens", "first_query", "heads")},
            roles=tuple(view.role(position) for position in range(len(view.tokens))),
            received=view.received,
            contributions=view.contributions,
            logit_difference=view.logit_difference,
        )

    def prompt_content(self) -> dict[str, Any]:
        """What is the same for all heads, as plain values."""
        return {
            "order": self.order,
            "d": round(self.logit_difference, 4),
            "tokens": [token.replace("\n", "↵") if token.strip() else visible(token) for token in self.tokens],
            # A line ends where a token does.
            "breaks": [position for position, token in enumerate(self.tokens) if token.endswith("\n")],
            "roles": list(self.roles),
            "first_query": self.first_query,
        }

    def head_content(self, head: Any) -> dict[str, Any]:
        """What one head pays and adds on this prompt, as plain values; raises HeadError for a head that isn't there."""
        wanted = Head.parse(head)
        if wanted not in self.heads:
            raise HeadError(f"head {wanted} isn't among the {len(self.heads)} heads kept of this prompt; view it anew")
        row = self.heads.index(wanted)
        received, terms = self.received[row], self.contributions[row]
        counted = not np.isnan(terms).all()
        return {
            "nas": float(np.nansum(terms)) if counted else None,
            "received": rounded(received, 4),
            "added": rounded(terms, 4),
            "shades": rounded(shades(received), 2),
            "leans": rounded(leans(terms), 2),
        }


def rounded(numbers: Any, digits: int) -> list[Any]:
    """A list, or a list of lists, of rounded numbers, NaN as None."""
    if np.ndim(numbers) > 1:
        return [rounded(row, digits) for row in numbers]
    return [None if np.isnan(number) else round(float(number), digits) for number in numbers]
