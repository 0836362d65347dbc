"""Fused attention that reads the attention paid to candidate tokens and edits heads on the way; plain tensors only."""

from .edits import CutEdges, Edit, ReplaceHeads, ScaleHeads, SwapEdges, attend
from .inputs import AttentionInputs, CandidateAttention, Spans
from .instrument import NAME, Recording, instrumented
from .kernel import candidate_attention

__all__ = [
    "NAME",
    "AttentionInputs",
    "CandidateAttention",
    "CutEdges",
    "Edit",
    "Recording",
    "ReplaceHeads",
    "ScaleHeads",
    "Spans",
    "SwapEdges",
    "attend",
    "candidate_attention",
    "instrumented",
]
