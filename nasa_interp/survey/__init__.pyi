"""Data sets x forms x what the model knows: where a bias holds, where it turns, and which heads lead."""

from .claims import Claim, claims_of
from .matrix import form_matrix
from .stability import settling
from .table import FormMatrix

__all__ = ["Claim", "FormMatrix", "claims_of", "form_matrix", "settling"]
