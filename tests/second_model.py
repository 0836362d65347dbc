"""Where the second real model lies, Gemma 3 270M as `make second-model` fetches it; it is never required."""

import os
from pathlib import Path

import pytest

FETCHED = Path(__file__).parents[1] / ".second-model" / "gemma-3-270m.gguf"


def second_model_path() -> Path | None:
    """What NASA_INTERP_SECOND_MODEL names, else what `make second-model` fetched; None where it isn't there."""
    path = Path(os.environ.get("NASA_INTERP_SECOND_MODEL") or FETCHED)
    return path if path.is_file() else None


needs_second_model = pytest.mark.skipif(
    second_model_path() is None, reason="the second model is not here; `make second-model` fetches it"
)
