"""What a model knows: the short question behind a yes-no question, asked openly and several times."""

from .asking import ask_openly
from .shortcuts import Shortcut, shortcut
from .value import STATES, Knowledge, Known

__all__ = ["STATES", "Knowledge", "Known", "Shortcut", "ask_openly", "shortcut"]
