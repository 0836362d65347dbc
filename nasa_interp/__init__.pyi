"""Find and cure the bias of language models toward No or Yes, head by head."""

from .alignment import Limits, Recipe, align_heads
from .calibration import Calibration, calibrate
from .comparison import compare_methods
from .decisions import decide
from .deltas import HeadDelta
from .errors import NasaInterpError
from .evaluation import evaluate_change
from .explorer import explore
from .figures import head_heatmap
from .head_table import HeadTable
from .heads import Head, HeadList
from .interventions import Knockout, Scale, Zero, ablation_effect
from .models import load_model
from .patching import patch_heads
from .prompts import PromptStyle, build_prompts
from .questions import BinaryQuestion, load_questions
from .report import write_report
from .run import RunInfo
from .scoring import HeadScores, attention_patterns, score_heads
from .served import load_server
from .view import view_heads

__all__ = [
    "BinaryQuestion",
    "Calibration",
    "Head",
    "HeadDelta",
    "HeadList",
    "HeadScores",
    "HeadTable",
    "Knockout",
    "Limits",
    "NasaInterpError",
    "PromptStyle",
    "Recipe",
    "RunInfo",
    "Scale",
    "Zero",
    "ablation_effect",
    "align_heads",
    "attention_patterns",
    "build_prompts",
    "calibrate",
    "compare_methods",
    "decide",
    "evaluate_change",
    "explore",
    "head_heatmap",
    "load_model",
    "load_questions",
    "load_server",
    "patch_heads",
    "score_heads",
    "view_heads",
    "write_report",
]
