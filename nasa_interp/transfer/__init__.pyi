"""What a cure is worth where it was not fitted: other questions, wordings and candidates."""

from .conditions import Condition, builtin_conditions
from .cures import METHODS
from .matrix import transfer_matrix
from .table import TransferMatrix

__all__ = ["METHODS", "Condition", "TransferMatrix", "builtin_conditions", "transfer_matrix"]
