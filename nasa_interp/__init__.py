"""Find negative bias in language models, head by head."""

from .decisions import BinaryReport, decide
from .errors import NasaInterpError
from .figures import decision_histogram, head_heatmap, save_figure
from .generation import GenerationReport, decide_by_generation
from .heads import Head, HeadList
from .interventions import (
    AblationEffect,
    Knockout,
    Scale,
    Swap,
    Zero,
    ablation_effect,
    cumulative_effect,
    sweep_heads,
)
from .models import Model, load_model
from .prompts import PromptBatch, PromptStyle, build_prompts
from .questions import BinaryQuestion, load_questions
from .run import RunInfo
from .scoring import HeadScores, attention_patterns, rank_overlap, score_heads

__all__ = [
    "AblationEffect",
    "BinaryQuestion",
    "BinaryReport",
    "GenerationReport",
    "Head",
    "HeadList",
    "HeadScores",
    "Knockout",
    "Model",
    "NasaInterpError",
    "PromptBatch",
    "PromptStyle",
    "RunInfo",
    "Scale",
    "Swap",
    "Zero",
    "ablation_effect",
    "attention_patterns",
    "build_prompts",
    "cumulative_effect",
    "decide",
    "decide_by_generation",
    "decision_histogram",
    "head_heatmap",
    "load_model",
    "load_questions",
    "rank_overlap",
    "save_figure",
    "score_heads",
    "sweep_heads",
]
