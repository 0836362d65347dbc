"""Models: loading them, and the two views of their weights."""

from .loading import load_model
from .model import Model, as_model

__all__ = ["Model", "as_model", "load_model"]
