"""Reads the questions beside this file, and counts answers; lm-evaluation-harness loads it with the tasks."""

import json
from pathlib import Path

import datasets


def questions(file, **_):
    """The questions of one of the files beside this one, wherever the harness was started."""
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in text.split("\n") if line])}


def results(doc, answers):
    """Whether the answer is right, whether it is Yes, and d = log P(No) - log P(Yes); a tie is a No."""
    (yes, _), (no, _) = answers
    says_yes = no - yes < 0
    right = says_yes == (doc["target"] == 0)
    return {"acc": float(right), "yes_rate": float(says_yes), "mean_logit_difference": float(no - yes)}
