"""Rankings of heads against one another, and the best of them on data kept apart."""

from .confirmation import Confirmation, confirm
from .contest import RankingContest, Winner, ranking_contest
from .rank import rank_heads

__all__ = ["Confirmation", "RankingContest", "Winner", "confirm", "rank_heads", "ranking_contest"]
