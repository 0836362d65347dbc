"""What was done to heads, as the page's plain values."""

from typing import Any

import numpy as np

from ..figures.theme import ORDER_NAMES
from ..interventions import AblationEffect

WORDS = {"Zero": "zeroed", "Knockout": "knocked out", "Scale": "scaled"}


def effect_content(question: str, effects: list[AblationEffect], whole: AblationEffect | None) -> dict[str, Any]:
    """d before and after, as rows: that of the shown question in each order, then the means over all questions.

    Args:
        question: the shown question's text.
        effects: the first is that on the shown question.
        whole: that on all questions, once it is known.
    """
    one = effects[0]
    orders = tuple(dict.fromkeys(one.base.order))
    how = WORDS.get(type(one.intervention).__name__, str(one.intervention))
    factor = getattr(one.intervention, "factor", None)
    rows = [_row(f"this question, {ORDER_NAMES[order]}", *_means(one, order)) for order in orders]
    if whole is not None:
        n = whole.base.n_questions
        for order in orders:
            rows.append(_row(f"mean of {n} questions, {ORDER_NAMES[order]}", *_means(whole, order)))
        rates = (float((report.logit_differences < 0).mean()) for report in (whole.base, whole.changed))
        rows.append(_row("rate of Yes, both orders", *rates))
    return {
        "heads": [str(head) for head in one.heads],
        "how": how if factor is None else f"{how} by {factor:g}",
        "question": question,
        "rows": rows,
        "whole": whole is not None,
    }


def _means(effect: AblationEffect, order: str) -> tuple[float, float]:
    rows = np.array(effect.base.order) == order
    return tuple(float(report.logit_differences[rows].mean()) for report in (effect.base, effect.changed))  # type: ignore[return-value]


def _row(what: str, before: float, after: float) -> dict[str, Any]:
    return {"what": what, "before": before, "after": after, "change": after - before}
