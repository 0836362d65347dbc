"""The tiny tokenizer of the other tests, for an environment that runs this folder alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
