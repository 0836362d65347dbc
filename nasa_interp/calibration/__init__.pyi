"""The offset of a model's decisions, from unlabeled questions, and how to take it off."""

from .fit import FITS, calibrate, fit_calibration
from .processor import AnswerOffset
from .value import Calibration

__all__ = ["FITS", "AnswerOffset", "Calibration", "calibrate", "fit_calibration"]
