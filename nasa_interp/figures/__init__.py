"""Results to plotly figures. Knows results, not models; computes nothing that a result doesn't hold.

Each function returns a `plotly.graph_objects.Figure`; it shows and writes nothing by itself."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
