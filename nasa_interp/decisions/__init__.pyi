"""What the model decides, and how wrong and how one-sided that is."""

from .asking import (
    answer_differences,
    answers_without_fusing,
    compare_answers,
    decide,
    fused_answers,
    plain_answers,
    report_decisions,
)
from .asking_served import ServedDecisions, decide_served
from .averaged import average_orders, without_mass
from .measured import LOW_MASS, Estimates, MeasuredDecisions
from .report import BinaryReport

__all__ = [
    "LOW_MASS",
    "BinaryReport",
    "Estimates",
    "MeasuredDecisions",
    "ServedDecisions",
    "answer_differences",
    "answers_without_fusing",
    "average_orders",
    "compare_answers",
    "decide",
    "decide_served",
    "fused_answers",
    "plain_answers",
    "report_decisions",
    "without_mass",
]
