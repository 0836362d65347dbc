"""What a change to a model costs elsewhere: perplexity on plain text, answers to simple four-option questions."""

from .options import FourOptions, OptionReport, answer_options, four_options
from .price import TextPrice
from .text import TextReference, perplexity, plain_text

__all__ = [
    "FourOptions",
    "OptionReport",
    "TextPrice",
    "TextReference",
    "answer_options",
    "four_options",
    "perplexity",
    "plain_text",
]
