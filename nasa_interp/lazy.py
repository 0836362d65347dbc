"""Packages whose names are loaded when they are asked for, as their stubs say: PEP 562.

The libraries beneath take seconds to load, and the command line's help needs none of them. Each package's
`__init__.pyi` imports its public names from where they are written. Type checkers and editors read that file, and so
does this one.
"""

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package: the names that its stub imports, and its modules.

    Args:
        package: its `__name__`; `__init__.pyi` lies beside its `__init__.py`.
    """
    module = sys.modules[package]
    stub = ast.parse(Path(str(module.__file__)).with_suffix(".pyi").read_text(encoding="utf-8"))
    homes = {
        alias.name: "." * node.level + (node.module or "")
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }

    def load(name: str) -> Any:
        if name in homes:
            value = getattr(importlib.import_module(homes[name], package), name)
        else:
            value = _submodule(package, name)
        setattr(module, name, value)
        return value

    return load, lambda: sorted({*vars(module), *homes}), sorted(homes)


def _submodule(package: str, name: str) -> Any:
    """The package's module of this name; raises AttributeError where it has none."""
    full = f"{package}.{name}"
    try:
        if not name.startswith("_"):
            return importlib.import_module(full)
    except ModuleNotFoundError as error:
        # Not ours, but a library that is missing.
        if error.name != full:
            raise
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
