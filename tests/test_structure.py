"""The package's own rules: imports point one way, importing costs no model library, the public names are there."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nasa_interp

PACKAGE = Path(nasa_interp.__file__).parent
ROOT = Path(__file__).parents[1]

# Each module may import those before it; a folder's modules share its place.
ORDER = [
    "lazy", "errors", "torch_defaults", "mixed_precision", "reading", "run", "results", "head_formats", "heads",
    "bootstrap", "head_table", "questions", "prompts", "served", "models", "batches", "generating", "thinking",
    "reference", "session", "attention", "restart", "forward", "measures", "scoring", "decisions", "calibration",
    "restartable", "interventions", "patching", "attribution", "rankings", "deltas", "evaluation", "objectives",
    "alignment", "comparison", "transfer", "knowledge", "streams", "survey", "harness", "figures", "view", "explorer",
    "report", "memory", "doctor", "demo", "cli", "__init__", "__main__",
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


PACKAGES = ["nasa_interp", *(m.name for m in pkgutil.walk_packages(nasa_interp.__path__, "nasa_interp.") if m.ispkg)]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_a_modules_too(package):
    """A name that is loaded when it is asked for can't be told from a submodule of the same name."""
    found = importlib.import_module(package)
    modules = {m.name for m in pkgutil.iter_modules(found.__path__)}
    assert not modules & set(found.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package):
    found = importlib.import_module(package)
    for name in found.__all__:
        assert getattr(found, name) is not None, name
        assert name in dir(found)


def test_stubs_are_shipped():
    """Without its stub beside it, an installed package would have no names."""
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["nasa_interp"]
    stubs = list(PACKAGE.rglob("__init__.pyi"))
    assert len(stubs) > 15
    for stub in stubs:
        assert any(stub in PACKAGE.glob(pattern) for pattern in patterns), stub


MODEL_LIBRARIES = ("torch", "transformers", "transformer_lens")


def loaded(code):
    """Which of the heavy libraries a fresh interpreter holds after this code."""
    heavy = ("numpy", "pandas", *MODEL_LIBRARIES)
    show = f"import sys; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import nasa_interp",
        "import nasa_interp; dir(nasa_interp); nasa_interp.__all__",
        "from nasa_interp.cli import main; main(['--help'])",
        "from nasa_interp.cli import main; main(['score', '--help'])",
        "from nasa_interp.cli import main; assert main(['decide', '--bogus']) == 2",
        "from nasa_interp.cli import main; assert main(['decide', 'x', '--seed', '-1']) == 2",
    ],
)
def test_what_needs_no_library_loads_none(code):
    assert loaded(code) == set()


def test_importing_all_names_leaves_transformer_lens_alone():
    assert "transformer_lens" not in loaded("from nasa_interp import *")


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = nasa_interp.nothing
    assert not hasattr(nasa_interp, "nothing")


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


def test_no_result_that_is_kept_names_a_place_on_the_machine_that_made_it():
    """Models and data are told by names or paths from here; a reader has no /home/somebody."""
    kept = [file for folder in ("benchmarks", "figures", "docs") for file in (ROOT / folder).rglob("*.json")]
    assert kept
    named = re.compile(r'"[^"]*?(/(?:home|root|work|tmp|Users|mnt|srv)/[^"]*)"')
    assert not {str(file.relative_to(ROOT)): found[0] for file in kept if (found := named.findall(file.read_text()))}
