"""What one instrumented forward pass leaves."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from .inputs import CandidateAttention


@dataclass
class Recording:
    """Per layer the attention paid to the candidates and, where asked for, the heads' outputs after edits."""

    readings: dict[int, CandidateAttention] = field(default_factory=dict)
    outputs: dict[int, Float[Tensor, "batch query head d_value"]] = field(default_factory=dict)
