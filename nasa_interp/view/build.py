"""Makes a `HeadView`: runs one prompt and reads what chosen heads attend to."""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..decisions import answer_differences
from ..errors import ModelError
from ..heads import HeadList
from ..models import as_model
from ..models.windows import attention_windows
from ..prompts import Order, PromptBatch, PromptStyle
from ..questions import BinaryQuestion, QuestionList
from ..scoring.formula import counted_queries, nas_terms
from ..scoring.patterns import attention_patterns
from ..session import PromptSet, describe_run
from ..torch_defaults import under_torch_defaults
from .value import HeadView


@under_torch_defaults
def view_heads(
    model: Any,
    question: BinaryQuestion | str,
    heads: HeadList | Iterable[Any],
    order: Order = "yes_no",
    style: PromptStyle | None = None,
) -> HeadView:
    """Puts one prompt under the lens: what the heads attend to, and which queries contribute to their NAS.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        question: a question, or its text.
        heads: heads, pairs or names.
        order: the order of the candidates in the instruction.
        style: wording and candidates.

    Returns:
        The view; its contributions sum to each head's NAS on this prompt.

    Raises:
        HeadError: a head outside the model.
        ModelError: no heads.

    Caveat: read from the attention after the softmax, where any number below 1e-38 counts as 1e-38. `score_heads`
        takes the difference of scores instead, which has no such floor.

    Source: the paper, section on NAS; the view is ours.
    """
    model, start = as_model(model), time.perf_counter()
    heads = HeadList.of(heads).check(model.n_layers, model.n_heads)
    if not len(heads):
        raise ModelError("no heads to view; name some, such as scores.top(5)")
    if not isinstance(question, BinaryQuestion):
        question = BinaryQuestion(question, False, "question")
    asked = PromptSet.build(model, QuestionList([question], "one question"), order, style, draws=0)
    (prompts,) = asked
    patterns = attention_patterns(model, prompts, heads)
    first, last = int(prompts.first_query[0]), int(prompts.last_pos[0])
    attention = patterns.values[0, :, first : last + 1, : last + 1]
    difference = float(answer_differences(model, prompts)[0][0])
    windows = attention_windows(model)
    counted = torch.stack([_counted(prompts, windows[head.layer]) for head in heads])
    return HeadView(
        question=question.question,
        order=order,
        tokens=patterns.tokens[0],
        first_query=first,
        yes_span=_span(prompts.yes_span),
        no_span=_span(prompts.no_span),
        heads=heads.heads,
        attention=attention,
        contributions=_contributions(attention, prompts, counted),
        logit_difference=difference,
        run=describe_run(model, asked, start, "hooked"),
    )


def _span(spans: Tensor) -> tuple[int, int]:
    return int(spans[0, 0]), int(spans[0, 1])


def _counted(prompts: PromptBatch, window: int | None) -> Tensor:
    """Which of the prompt's queries count in a layer of this window."""
    queries = torch.arange(int(prompts.first_query[0]), int(prompts.last_pos[0]) + 1)
    spans = prompts.yes_span, prompts.no_span
    return counted_queries(prompts.first_query, prompts.last_pos, *spans, queries, window)[0]


def _contributions(
    attention: Float[np.ndarray, "head query key"], prompts: PromptBatch, counted: Tensor
) -> Float[np.ndarray, "head query"]:
    """Each query's term of NAS; NaN where it doesn't count."""
    pattern = torch.from_numpy(np.ascontiguousarray(attention))
    spans = (slice(*_span(prompts.yes_span)), slice(*_span(prompts.no_span)))
    smallest = torch.finfo(torch.float32).tiny
    log_yes, log_no = (pattern[:, :, span].mean(-1).clamp_min(smallest).log() for span in spans)
    return torch.where(counted, nas_terms(log_yes, log_no), torch.nan).numpy()
