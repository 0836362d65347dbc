"""A self-contained piece of HTML that a notebook can show."""

from dataclasses import dataclass
from pathlib import Path

from ..run import write_text


@dataclass(frozen=True, repr=False)
class LocalPage:
    """HTML with its script inside; a notebook shows it, `save` writes it.

    Args:
        fragment: the HTML, about 1.3 MB, most of it CircuitsVis's script.
    """

    fragment: str

    def save(self, path: str | Path) -> Path:
        """Writes a whole page that opens offline."""
        head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Attention</title></head>'
        return write_text(path, f"{head}<body>{self.fragment}</body></html>\n")

    def __repr__(self) -> str:
        return f"LocalPage({len(self.fragment) / 1e6:.1f} MB)"

    def _repr_html_(self) -> str:
        return self.fragment
