"""Models behind an OpenAI-compatible address: requests, retries, and the log-probabilities that come back."""

from .answer import ServedAnswer, TopToken, read_answer, read_text
from .load import is_address, load_server
from .model import Asking, ServedModel

__all__ = ["Asking", "ServedAnswer", "ServedModel", "TopToken", "is_address", "load_server", "read_answer", "read_text"]
