"""The errors and warnings that users see: one clear line that names the thing, its place and the next action."""

import sys
import warnings

PACKAGE = __name__.partition(".")[0]


class NasaInterpError(Exception):
    """Base of every error that this package raises on purpose; the command line prints it and exits with 1."""


class QuestionError(NasaInterpError):
    """A question, a question file or a data specification can't be used."""


class PromptError(NasaInterpError):
    """A prompt can't be built: a candidate missing or doubled, a token that merges, a context too short."""


class ModelError(NasaInterpError):
    """A model can't be found, read, converted or scored."""


class FusedRefusedError(ModelError):
    """Fused attention isn't exact for this model, or not on these prompts; another engine may take them."""


class DisagreementError(FusedRefusedError):
    """A prompt's answer in a batch is another than the one it has alone."""


class ServerError(NasaInterpError):
    """A server can't be asked, or what it answers can't be read."""


class RequestRefusedError(ServerError):
    """A server takes no such request, such as one for more log-probabilities than it gives."""


class HeadError(NasaInterpError):
    """A head, a head list or a file of heads can't be used."""


class ResultError(NasaInterpError):
    """A saved result can't be read, or two results can't be compared."""


class CalibrationError(NasaInterpError):
    """An offset can't be fitted, or doesn't belong to the decisions that it is put on."""


class DeltaError(NasaInterpError):
    """A change of heads can't be applied, undone, merged, read or exported."""


class AlignmentError(NasaInterpError):
    """Heads can't be tuned: a recipe, questions or a run folder that don't fit, or nothing that helps."""


class DivergedError(AlignmentError):
    """A step's loss is no number."""


class NothingKeptError(AlignmentError):
    """No step of tuning was worth keeping; the model is as it was."""


def first_line(error: BaseException) -> str:
    """The first line of what another library raised, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def warn_user(message: str) -> None:
    """A UserWarning that points at the user's line: the first outside the package, whatever of ours lies between."""
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE:
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, stacklevel=depth)
