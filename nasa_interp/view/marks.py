"""How strongly tokens are marked: shades by the attention that they get, leans by what queries add to NAS."""

import numpy as np
from jaxtyping import Float

MOST = 0.6


def shades(received: Float[np.ndarray, " key"]) -> Float[np.ndarray, " key"]:
    """Opacity of each token's shade, 0 to `MOST`, on a square-root scale.

    The scale ends at the largest attention besides the first token's, where idle heads put theirs.
    """
    most = float(received[1:].max(initial=0.0)) or 1.0
    return MOST * np.minimum(1.0, received / most) ** 0.5


def leans(terms: Float[np.ndarray, " query"]) -> Float[np.ndarray, " query"]:
    """Each query's share of the largest contribution, -1 (toward Yes) to 1 (toward No); NaN stays NaN."""
    reach = float(np.nanmax(np.abs(terms))) if not np.isnan(terms).all() else 1.0
    return terms / (reach or 1.0)
