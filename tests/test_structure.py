"""The package's own rules: imports point one way, importing costs no model library, the public names are there."""

import ast
import subprocess
import sys
from pathlib import Path

import nasa_interp

PACKAGE = Path(nasa_interp.__file__).parent

# Each module may import those before it; a folder's modules share its place.
ORDER = [
    "errors", "torch_defaults", "reading", "run", "results", "heads", "bootstrap", "questions", "chat", "encoding",
    "prompts", "models", "reference", "session", "attention", "restart", "forward", "batches", "measures", "scoring",
    "decisions", "generation", "abilities", "interventions", "alignment", "figures", "view", "report", "doctor", "demo",
    "cli", "__init__", "__main__",
]  # fmt: skip


def module_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Top-level modules of the package that a file imports."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]


def test_imports_point_one_way():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        mine = module_of(path)
        assert mine in ORDER, f"{mine} has no place in the order of modules"
        for other in imported(path):
            if other != mine and ORDER.index(other) >= ORDER.index(mine):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert not wrong


def test_every_public_name_is_there():
    for name in nasa_interp.__all__:
        assert hasattr(nasa_interp, name), name


def test_importing_the_package_leaves_transformer_lens_alone():
    code = "import sys, nasa_interp; print('transformer_lens' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_nothing_but_one_module_knows_transformer_lens():
    users = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(
            (isinstance(n, ast.ImportFrom) and (n.module or "").startswith("transformer_lens"))
            or (isinstance(n, ast.Import) and any(a.name.startswith("transformer_lens") for a in n.names))
            for n in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert users == ["models/bridge.py"]
