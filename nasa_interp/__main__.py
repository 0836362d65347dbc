"""python -m nasa_interp"""

from .cli import entry

entry()
