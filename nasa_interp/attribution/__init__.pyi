"""What heads add to the answer, without intervening: direct logit attribution, attribution patching."""

from .direct import DirectLogitAttribution, direct_logit_attribution
from .estimates import attribution_patching, estimate_zero_ablation

__all__ = [
    "DirectLogitAttribution",
    "attribution_patching",
    "direct_logit_attribution",
    "estimate_zero_ablation",
]
