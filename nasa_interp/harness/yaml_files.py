"""The YAML files of lm-evaluation-harness: one task for each order of the candidates, and a group of both."""

import json
from collections.abc import Sequence
from typing import Any

from ..prompts import Order, PromptStyle, UserTurns

# Which way is better is asked of every number; a rate of Yes is neither.
METRICS = {"acc": True, "yes_rate": None, "mean_logit_difference": None}


def task_yaml(name: str, order: Order, style: PromptStyle, turns: UserTurns) -> str:
    """One task: two answers of one token each, compared right behind the prompt.

    Args:
        name: of the group.
        order: of the candidates.
        style: their words.
        turns: the prompts as messages.
    """
    words = [style.yes, style.no]
    settings: dict[str, Any] = {
        "task": task_name(name, order),
        "dataset_kwargs": {"file": rows_file(name, order)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "text",
        "doc_to_choice": [turns.lead + word for word in words],
        "doc_to_target": "target",
        "target_delimiter": "",
        "num_fewshot": len(turns.examples),
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": better} for metric, better in METRICS.items()
        ],
        "metadata": {"version": 1},
    }
    if turns.system is not None:
        settings["description"] = "system"
    if turns.examples:
        samples = [{"text": asked, "target": words.index(answer)} for asked, answer in turns.examples]
        settings["fewshot_config"] = {"sampler": "first_n", "samples": samples, "doc_to_choice": words}
    functions = {"custom_dataset": "questions", "process_results": "results"}
    return _yaml(settings) + "".join(f"{key}: !function utils.{name}\n" for key, name in functions.items())


def group_yaml(name: str, orders: Sequence[Order]) -> str:
    """The group of the tasks, whose numbers are the means over all their questions."""
    means = [{"metric": metric, "aggregation": "mean", "weight_by_size": True} for metric in METRICS]
    tasks = [task_name(name, order) for order in orders]
    return _yaml({"group": name, "task": tasks, "aggregate_metric_list": means, "metadata": {"version": 1}})


def task_name(name: str, order: Order) -> str:
    """Of the task that asks in this order."""
    return f"{name}_{order}"


def rows_file(name: str, order: Order) -> str:
    """The file with that task's questions."""
    return f"{task_name(name, order)}.jsonl"


def _yaml(settings: dict[str, Any]) -> str:
    """One line a setting; JSON is YAML."""
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())
