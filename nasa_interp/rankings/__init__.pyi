"""Rankings of heads compared, and the best of them on held-out data."""

from .confirmation import Confirmation, confirm
from .contest import RankingContest, Winner, ranking_contest
from .rank import rank_heads

__all__ = ["Confirmation", "RankingContest", "Winner", "confirm", "rank_heads", "ranking_contest"]
