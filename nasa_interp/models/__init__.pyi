"""Models: loading them, and the two views of their weights."""

from .loading import load_model, load_tokenizer
from .model import Model, as_model
from .slice_values import read_slices, write_slices

__all__ = ["Model", "as_model", "load_model", "load_tokenizer", "read_slices", "write_slices"]
