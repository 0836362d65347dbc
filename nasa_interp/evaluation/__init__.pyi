"""What a change of the weights did: decisions, plain text, four-option questions, free answers, other wordings."""

from .change_report import ChangeReport, with_evaluation
from .evaluate import evaluate_change
from .generation import GenerationReport, decide_by_generation, first_candidate
from .options import FourOptions, OptionReport, answer_options, four_options
from .paired import groups_above_chance
from .text import TextReference, perplexity, plain_text
from .text_change import TextChange

__all__ = [
    "ChangeReport",
    "FourOptions",
    "GenerationReport",
    "OptionReport",
    "TextChange",
    "TextReference",
    "answer_options",
    "decide_by_generation",
    "evaluate_change",
    "first_candidate",
    "four_options",
    "groups_above_chance",
    "perplexity",
    "plain_text",
    "with_evaluation",
]
