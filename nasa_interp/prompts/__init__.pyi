"""Questions to token batches, in both candidate orders, and prompts in pairs."""

from .batch import PromptBatch, labels_of
from .build import build_prompts, encode_texts
from .forms import FORM_NAMES, FORMS, load_form, with_examples
from .messages import ServedPrompt, served_prompts
from .pairs import PromptPairs, instruction_pairs, question_pairs
from .style import ORDERS, Order, Orders, PromptStyle, find_candidates
from .turns import UserTurns, user_turns

__all__ = [
    "FORMS",
    "FORM_NAMES",
    "ORDERS",
    "Order",
    "Orders",
    "PromptBatch",
    "PromptPairs",
    "PromptStyle",
    "ServedPrompt",
    "UserTurns",
    "build_prompts",
    "encode_texts",
    "find_candidates",
    "instruction_pairs",
    "labels_of",
    "load_form",
    "question_pairs",
    "served_prompts",
    "user_turns",
    "with_examples",
]
