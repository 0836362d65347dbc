"""Scores of attention heads: the formula, the engines, the result."""

from .formula import negative_attention_score
from .overlap import RankOverlap, rank_overlap
from .patterns import AttentionPatterns, attention_patterns
from .score import score_heads
from .scores import HeadScores

__all__ = [
    "AttentionPatterns",
    "HeadScores",
    "RankOverlap",
    "attention_patterns",
    "negative_attention_score",
    "rank_overlap",
    "score_heads",
]
