"""Results to plotly figures. Knows results, not models; computes nothing that a result doesn't hold.

Each function returns a `plotly.graph_objects.Figure`; it shows and writes nothing by itself."""

from .curves import ablation_curve, alignment_log, cost_curves
from .decisions import calibration_bins, calibration_curve, decision_histogram, precision_recall
from .grids import head_heatmap, patch_heatmap
from .methods import method_comparison
from .rankings import contest_curves, overlap_scatter, polarity_against_recency
from .save import save_figure
from .survey import form_matrix_heatmap, settling_curve
from .theme import themed
from .transfer import transfer_heatmap
from .validation import validation_curves

__all__ = [
    "ablation_curve",
    "alignment_log",
    "calibration_bins",
    "calibration_curve",
    "contest_curves",
    "cost_curves",
    "decision_histogram",
    "form_matrix_heatmap",
    "head_heatmap",
    "method_comparison",
    "overlap_scatter",
    "patch_heatmap",
    "polarity_against_recency",
    "precision_recall",
    "save_figure",
    "settling_curve",
    "themed",
    "transfer_heatmap",
    "validation_curves",
]
