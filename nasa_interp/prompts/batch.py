"""Prompts as tokens, with everything that scoring and deciding need to know of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import PromptError
from ..questions import BinaryQuestion
from .style import Order, PromptStyle


@dataclass(frozen=True)
class PromptBatch:
    """Prompts as tokens, padded on the right, with everything that scoring and deciding need to know of them.

    A pad may be any token, and nothing may depend on it; `mask` is False there.
    Positions count the tokens of a prompt from 0; spans are start and end (exclusive). `shared` are the tokens that
    both answers begin with, which the prompts end with. The instruction runs from `instruction_start` to
    `first_query`, context and question from there (or before it, where the style says so) to `question_end`
    (exclusive). `style` is how they were written,
    `labels` say for which the yes candidate is the right word, and are None where nobody knows;
    `unsure_token` begins the third candidate, where the style has one, `thought` says that the model reasoned first,
    `data` the name of the questions ("" where they had none), so that results of prompts that are handed over say so.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    yes_span: Int[Tensor, "batch 2"]
    no_span: Int[Tensor, "batch 2"]
    instruction_start: Int[Tensor, " batch"]
    first_query: Int[Tensor, " batch"]
    question_end: Int[Tensor, " batch"]
    last_pos: Int[Tensor, " batch"]
    labels: Bool[Tensor, " batch"] | None
    yes_token: int
    no_token: int
    yes_variants: tuple[int, ...]
    no_variants: tuple[int, ...]
    order: Order
    kind: Literal["chat", "plain"]
    questions: tuple[BinaryQuestion, ...] = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)
    style: PromptStyle = field(repr=False)
    data: str = ""
    notes: tuple[str, ...] = ()
    shared: tuple[int, ...] = ()
    unsure_token: int | None = None
    unsure_variants: tuple[int, ...] = ()
    thought: bool = False

    @property
    def position_ids(self) -> Int[Tensor, "batch pos"]:
        """Each token's position; pads continue the count, as they come after every real token."""
        return torch.arange(self.tokens.shape[1]).expand_as(self.tokens)

    @property
    def n_queries(self) -> Int[Tensor, " batch"]:
        """Positions after the instruction, the last prompt token included."""
        return self.last_pos - self.first_query + 1

    @property
    def template_only(self) -> bool:
        """Whether nothing but the template's own tokens follows the candidates: no question, no thought."""
        return self.style.after and not self.thought

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, rows: Sequence[int] | Int[Tensor, " rows"]) -> "PromptBatch":
        """The prompts of these rows, in this order, cut to the longest of them."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        length = int(self.last_pos[rows].max()) + 1 if len(rows) else 0
        names = ("yes_span", "no_span", "instruction_start", "first_query", "question_end", "last_pos")
        tensors = {name: getattr(self, name)[rows] for name in names}
        tensors["labels"] = None if self.labels is None else self.labels[rows]
        return replace(
            self,
            tokens=self.tokens[rows, :length],
            mask=self.mask[rows, :length],
            questions=tuple(self.questions[i] for i in rows.tolist()),
            texts=tuple(self.texts[i] for i in rows.tolist()),
            **tensors,
        )


def labels_of(prompts: PromptBatch) -> Bool[Tensor, " batch"]:
    """The labels, where they are needed.

    Raises:
        PromptError: for prompts of unlabeled questions.
    """
    if prompts.labels is None:
        raise PromptError(f"the questions ({prompts.data or 'of these prompts'}) have no labels; add them")
    return prompts.labels
