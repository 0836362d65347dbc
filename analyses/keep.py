"""What the analyses share: where the repository is, and keeping a figure beside the JSON that says from what."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

import nasa_interp as ni
from nasa_interp.run import write_json

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"


def keep(figure: go.Figure, name: str, *runs: ni.RunInfo, **numbers: Any) -> go.Figure:
    """The figure as it is; with NASA_INTERP_FIGURES=1 it is also written to figures/, as .html, .png and .json.

    Args:
        figure: what to keep.
        name: of the files, without an ending; another model than the embedded one adds its own.
        runs: where the figure's numbers came from.
        numbers: what the figure shows in numbers; tables as DataFrames.
    """
    if os.environ.get("NASA_INTERP_FIGURES") == "1":
        if model := os.environ.get("NASA_INTERP_MODEL"):
            name = f"{name}.{Path(model).stem}"
        ni.figures.save_figure(figure, FIGURES / f"{name}.png")
        # One plotly.min.js for all pages of the folder; a name of our own keeps a redrawn page's changes small.
        figure.write_html(FIGURES / f"{name}.html", include_plotlyjs="directory", div_id=name)
        plain = {key: _plain(value) for key, value in numbers.items()}
        write_json(FIGURES / f"{name}.json", {"figure": name, "numbers": plain, "runs": [r.to_dict() for r in runs]})
    return figure


def _plain(value: Any) -> Any:
    return value.to_dict(orient="records") if isinstance(value, pd.DataFrame) else value
