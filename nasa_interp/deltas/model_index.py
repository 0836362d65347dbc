"""What was measured as the hub's metadata: the `model-index` of a model card, which leaderboards and searches read."""

import math
from collections.abc import Iterator
from typing import Any

from .delta import HeadDelta
from .license import without_folders

# What the hub calls them; the others are ours and keep their names.
HUB_NAMES = {"auc": "roc_auc"}


def evaluation_results(delta: HeadDelta) -> list[Any]:
    """The tuned model's numbers as the hub's EvalResults; none where nothing was measured.

    Those of the delta's log, as for the card: "measured" on questions that had no part in making it, and "tuned"
    on the validation questions. What is undefined is left out, as the hub knows no null.
    """
    from huggingface_hub import EvalResult

    measured, tuned = (delta.log.get(name) for name in ("measured", "tuned"))
    # The hub takes results of one task and data set together by these types.
    sets = [
        ("yes-no-questions", str(delta.log.get("measured_on") or "questions kept apart"), measured),
        ("yes-no-questions-validation", "the validation questions, by which tuning was steered", tuned),
    ]
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Yes-no decisions",
            dataset_type=kind,
            dataset_name=without_folders(data),
            metric_type=HUB_NAMES.get(name, name),
            metric_name=name,
            metric_value=value,
        )
        for kind, data, values in sets
        if isinstance(values, dict)
        for name, value in _finite(values)
    ]


def _finite(values: dict[str, Any], within: str = "") -> Iterator[tuple[str, float]]:
    """Every number that is one, by its name: the one after the change, and where orders differ one for each."""
    for name, value in values.items():
        label = f"{within} {name}".strip()
        if isinstance(value, dict) and "after" in value:
            value = value["after"]
        if isinstance(value, dict):
            yield from _finite(value, label)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield label, value
