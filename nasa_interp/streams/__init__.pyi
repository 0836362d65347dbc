"""Any number of questions, in parts on disk, by one process or several."""

from .parts import Part, Parts
from .report import StreamedReport
from .verbs import StreamedAblation, stream_ablation, stream_decisions, stream_scores
from .world import World, joined_world, world_rank, world_size

__all__ = [
    "Part",
    "Parts",
    "StreamedAblation",
    "StreamedReport",
    "World",
    "joined_world",
    "stream_ablation",
    "stream_decisions",
    "stream_scores",
    "world_rank",
    "world_size",
]
