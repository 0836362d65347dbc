"""The analyses' manners: they parse, use public names alone, take their size from outside, and type in no paths.

Their code also runs from top to bottom on a tiny random model, so that a change of the API shows. On the embedded model
they are executed by `make notebooks`.
"""

import ast
import functools
import importlib
import json
import re
import sys
import warnings
from pathlib import Path

import families
import jupytext
import plotly.graph_objects as go
import pytest
import torch
import transformers

import nasa_interp as ni
from nasa_interp import prompts

FOLDER = Path(__file__).parents[1] / "analyses"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
NAMES = [path.stem for path in NOTEBOOKS]
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)


def code_cells(path: Path) -> list[str]:
    return [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]


def offers(owner: str, name: str) -> bool:
    """Whether the package (ni), or one of its own (ni.figures), has this public name."""
    if owner == "ni":
        return name in ni.__all__ or (Path(ni.__file__).parent / name).is_dir()
    package, _, rest = owner.removeprefix("ni.").partition(".")
    # A method or a field of something public, such as ni.HeadList.of, is its own.
    if package in ni.__all__ or rest:
        return True
    return name in importlib.import_module(f"nasa_interp.{package}").__all__


def private_uses(source: str) -> list[str]:
    """What a source takes from the package that the package doesn't offer."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if node.attr.startswith("_") or (owner.split(".")[0] == "ni" and not offers(owner, node.attr)):
                found.append(f"{owner}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nasa_interp":
            offered = getattr(importlib.import_module(node.module), "__all__", ())
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in offered]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("nasa_interp.")]
    return found


def reads_limit(cell: str) -> bool:
    """Whether a cell sets LIMIT from the environment."""
    sets = [
        node
        for node in ast.parse(cell).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LIMIT"
    ]
    return len(sets) == 1 and "os.environ.get('NASA_INTERP_LIMIT')" in ast.unparse(sets[0].value)


def shown_figures(path: Path) -> list[tuple[str, str]]:
    """The name of each kept figure, and whether its cell ends in it."""
    found = []
    for cell in code_cells(path):
        last = ast.parse(cell).body[-1]
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "keep":
                ends = isinstance(last, ast.Expr) and ast.unparse(last.value) == ast.unparse(node)
                found.append((node.args[1].value, "last" if ends else "in the middle"))  # type: ignore[attr-defined]
    return found


def test_eight_notebooks() -> None:
    assert [name[:2] for name in NAMES] == [f"{number:02d}" for number in range(1, 9)]


@every_notebook
def test_it_uses_public_names_alone(path: Path) -> None:
    assert private_uses("\n".join(code_cells(path))) == []


@every_notebook
def test_its_first_cell_takes_the_limit_from_outside(path: Path) -> None:
    cells = code_cells(path)
    assert reads_limit(cells[0])
    assert not any(reads_limit(cell) for cell in cells[1:])


@every_notebook
def test_it_says_what_would_refute_its_claim(path: Path) -> None:
    notebook = jupytext.read(path)
    assert notebook.cells[0].cell_type == "markdown"
    for words in ("**Claim.**", "**Look at**", "**It would be refuted by**"):
        assert words in notebook.cells[0].source
    assert notebook.metadata.kernelspec["name"] == "python3"


@every_notebook
def test_it_returns_figures_and_shows_none(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert ".show(" not in source
    assert "print(" not in source
    figures = shown_figures(path)
    assert figures
    assert {where for _, where in figures} == {"last"}


@every_notebook
def test_every_long_call_is_quiet(path: Path) -> None:
    """Bars in a notebook that is kept are noise."""
    for node in ast.walk(ast.parse("\n".join(code_cells(path)))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).removeprefix("ni.")
            if name in ("decide", "score_heads", "decide_by_generation", "Ablator", "cumulative_effect", "hold_contest",
                        "patch_heads", "align_heads", "evaluate_change", "compare"):  # fmt: skip
                assert "progress" in {keyword.arg for keyword in node.keywords}, name


@every_notebook
def test_other_data_are_guarded_and_no_path_is_of_one_machine(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert "/work" not in source
    assert "/home" not in source
    assert "../" not in source
    if "strategyqa:" in source:
        assert 'STRATEGYQA = os.environ.get("NASA_INTERP_STRATEGYQA")\n' in source
        assert "if STRATEGYQA:" in source


def test_the_test_split_is_for_measuring_alone() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS if "#test" in path.read_text(encoding="utf-8")] == ["01", "05"]


def test_figures_have_names_of_their_own() -> None:
    names = [name for path in NOTEBOOKS for name, _ in shown_figures(path)]
    assert len(set(names)) == len(names)


def test_keep_writes_only_when_asked(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    keep = importlib.import_module("keep")
    monkeypatch.delitem(sys.modules, "keep")
    monkeypatch.setattr(keep, "FIGURES", tmp_path)
    monkeypatch.setattr(keep.ni.figures, "save_figure", lambda figure, path: path.write_bytes(b"picture"))
    figure, run = go.Figure(go.Scatter(x=[1], y=[2])), ni.run.RunInfo("tiny", "own", 2, ("yes_no",))
    monkeypatch.delenv("NASA_INTERP_FIGURES", raising=False)
    assert keep.keep(figure, "a", run, n=float("nan")) is figure
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("NASA_INTERP_FIGURES", "1")
    assert keep.keep(figure, "a", run, n=float("nan")) is figure
    assert {path.name for path in tmp_path.iterdir()} == {"a.html", "a.png", "a.json", "plotly.min.js"}
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert content["numbers"] == {"n": None}
    assert ni.run.RunInfo.from_dict(content["runs"][0]).model == "tiny"
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert 'src="plotly.min.js"' in page
    assert "https://cdn" not in page


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("ni.load_model", []),
        ("ni.session", ["ni.session"]),
        ("ni.models.bridge", ["ni.models.bridge"]),
        ("report._weights", ["report._weights"]),
        ("from nasa_interp.session import describe_run", ["nasa_interp.session.describe_run"]),
        ("import nasa_interp.run", ["nasa_interp.run"]),
    ],
)
def test_private_names_are_seen(source: str, wrong: list[str]) -> None:
    assert private_uses(source) == wrong


# Heads enough for random sets of twenty beside another twenty; the others need no more than a few.
LAYERS = {"04_causes_and_rankings": 12}


@pytest.fixture
def tiny_llama(request):
    """A tiny random Llama of four heads a layer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = families.FAMILIES["llama"]()
    config.num_hidden_layers = LAYERS.get(request.getfixturevalue("path").stem, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    yield ni.load_model(model.eval(), tokenizer=families.tiny_tokenizer())
    torch.set_num_threads(threads)


@every_notebook
def test_its_code_runs(path: Path, tiny_llama, monkeypatch) -> None:
    """Every cell, and the HTML of what it ends in; the last says in words what became of the claim."""
    monkeypatch.setattr(ni, "load_model", lambda name: tiny_llama)
    # The tiny tokenizer has no word of one token among the defaults.
    pairs = functools.partial(prompts.instruction_pairs, neutral="answer")
    monkeypatch.setattr(prompts, "instruction_pairs", pairs)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("NASA_INTERP_LIMIT", "8")
    monkeypatch.delenv("NASA_INTERP_STRATEGYQA", raising=False)
    monkeypatch.delenv("NASA_INTERP_FIGURES", raising=False)
    space: dict = {"__name__": path.stem}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cell in code_cells(path):
            shown = run_cell(cell, space)
    assert "claim" in shown.data
    assert re.search("stand|be told", shown.data)


def run_cell(cell: str, space: dict):
    """The value of the cell's last expression, as a notebook takes it."""
    *body, last = ast.parse(cell).body
    if not isinstance(last, ast.Expr):
        return exec(cell, space)
    exec(compile(ast.Module(body, []), "cell", "exec"), space)
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
    if hasattr(value, "_repr_html_") and not isinstance(value, go.Figure):
        assert value._repr_html_()
    return value
