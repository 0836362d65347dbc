"""The transfer matrix on tiny models: every method in every cell, kept on disk, nothing fitted on what is asked."""

from dataclasses import replace

import families
import numpy as np
import pandas as pd
import pytest
import torch

import nasa_interp as ni
from nasa_interp.alignment import Limits
from nasa_interp.calibration import fit_calibration
from nasa_interp.errors import AlignmentError, QuestionError
from nasa_interp.questions import QuestionList
from nasa_interp.report.registry import sections_of
from nasa_interp.run import RunInfo
from nasa_interp.transfer import METHODS, Condition, TransferMatrix, builtin_conditions, transfer_matrix
from nasa_interp.transfer import matrix as matrix_module
from nasa_interp.transfer.cures import COLUMN, parts
from nasa_interp.transfer.verdict import verdict_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:answer mass"),
    pytest.mark.filterwarnings("ignore:calibrated on"),
]
OPEN = Limits(0.0, 1.0, 1.0, 100.0, ranks=-1.0)
RECIPE = ni.Recipe(steps=2, check_every=1, learning_rate=0.1, questions=4)
OPTIONS = {"recipe": RECIPE, "limits": OPEN, "n_unlabeled": 4, "n_random": 2, "draws": 5, "progress": False}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def asked(start: int, n: int = 8) -> QuestionList:
    rows = [ni.BinaryQuestion(f"Is {i} above {i + (-1) ** i}?", i % 2 == 1, f"q{i}") for i in range(start, start + n)]
    return QuestionList(rows, f"from {start}")


def conditions() -> tuple[list[Condition], list[Condition]]:
    columns = [Condition("same", asked(200, 12)), Condition("other", asked(300, 12), ni.PromptStyle(kind="plain"))]
    return [Condition("here", asked(0), val=asked(100))], columns


@pytest.fixture
def model():
    return ni.load_model(families.tiny_model("llama"), tokenizer=families.tiny_tokenizer())


def test_every_method_has_every_cell_and_a_killed_run_goes_on(model, tmp_path, monkeypatch) -> None:
    fitted, columns = conditions()
    before = model.weights_hash()
    found = transfer_matrix(model, ["0.1", "1.2"], fitted, columns, folder=tmp_path, **OPTIONS)
    assert model.weights_hash() == before
    table = found.to_dataframe()
    assert set(table.method) == set(METHODS)
    assert len(table) == 2 * (len(METHODS) + 1)
    assert (table.n == 8).all()
    assert table[["imbalance", "accuracy"]].notna().all(axis=None)
    assert set(found.p_values().p) <= {1 / 3, 2 / 3, 1.0}
    assert "as it is" in set(found.summary().method)
    assert "median over what was asked" in found.verdict
    loaded = TransferMatrix.load(tmp_path / "transfer.json")
    assert loaded.verdict == found.verdict
    (section,) = [s for s in sections_of(tmp_path)[0] if s.title == "Where a cure holds"]
    assert found.verdict in section.sentences
    assert len(section.figures) == 1
    monkeypatch.setattr(matrix_module, "report_decisions", None)
    monkeypatch.setattr(matrix_module, "calibrate", None)
    again = transfer_matrix(model, ["0.1", "1.2"], fitted, columns, folder=tmp_path, **OPTIONS)
    assert again.to_dataframe()["accuracy"].tolist() == table["accuracy"].tolist()
    more = {**OPTIONS, "seeds": (0, 1), "n_random": [3]}
    monkeypatch.undo()
    grown = transfer_matrix(model, ["0.1", "1.2"], fitted, columns, folder=tmp_path, **more)
    assert len(grown.table) == len(table) + 2 * 7
    both = grown.table.merge(table, on=["fitted_on", "asked", "method", "variant"])
    assert (both.accuracy_x == both.accuracy_y).all()
    runs = dict(zip(grown.cells().method, grown.cells().runs, strict=True))
    assert (runs["nasa"], runs["nasa without labels"], runs["random heads"], runs["as it is"]) == (2, 2, 3, 1)
    assert (runs["lora"], runs["lora without labels"]) == (2, 2)
    joined = found.joined(grown)
    assert sorted(joined.table.variant) == sorted(grown.table.variant)
    assert TransferMatrix.load(joined.save(tmp_path / "joined.json")).verdict == joined.verdict
    with pytest.raises(AlignmentError, match="another heads can't be one"):
        found.joined(replace(grown, details={**grown.details, "heads": ["9.9"]}))
    other = {**grown.details, "fitted": {"here": "another"}}
    with pytest.raises(AlignmentError, match="another here can't be one"):
        found.joined(replace(grown, details=other))
    with pytest.raises(AlignmentError, match="holds a run with another n_unlabeled"):
        transfer_matrix(model, ["0.1", "1.2"], fitted, columns, folder=tmp_path, **{**OPTIONS, "n_unlabeled": 2})


def test_the_columns_calibration_is_the_one_of_its_questions_set_aside(model) -> None:
    fitted, columns = conditions()
    found = transfer_matrix(model, ["0.1"], fitted, columns, methods=[COLUMN], **OPTIONS)
    aside, rest = parts(columns[1].questions, 4, 0)
    assert not {q.id for q in aside} & {q.id for q in rest}
    options = {"style": columns[1].style, "draws": 5, "progress": False}
    prompts = ni.build_prompts(model, aside, "yes_no", columns[1].style)
    one = fit_calibration(ni.decide(model, aside, **options), prompts)
    expected = ni.decide(model, rest, **options).calibrated(one)
    row = found.to_dataframe().query("method == @COLUMN and asked == 'other'").iloc[0]
    assert row.imbalance_yes_no == expected.orders["yes_no"].imbalance
    assert row.accuracy == expected.accuracy


def test_an_offset_on_top_brings_the_tuned_heads_along(model) -> None:
    fitted, columns = conditions()
    found = transfer_matrix(model, ["0.1"], fitted, columns, methods=["nasa then calibrated"], **OPTIONS)
    assert set(found.table.method) == {"as it is", "nasa", "nasa then calibrated"}


def test_the_verdict_follows_the_numbers() -> None:
    names = ("fitted_on", "asked", "method", "imbalance_yes_no", "imbalance_no_yes", "imbalance", "accuracy", "auc")
    rows = [("", "a", "as it is", 0.5, 0.5, 0.5, 0.5, 0.6), ("here", "a", "nasa", 0.02, -0.04, 0.03, 0.7, 0.7),
            ("", "a", COLUMN, 0.04, 0.02, 0.03, 0.6, 0.6),
            ("here", "a", "nasa then calibrated", 0.01, 0.01, 0.01, 0.7, 0.7)]  # fmt: skip
    cells, chances = pd.DataFrame(rows, columns=list(names)), pd.DataFrame({"p": [], "random": []})
    told = verdict_of(cells, chances)
    assert "off balance by 0.50" in told
    assert "Take an offset from unlabeled questions in the very condition" in told
    assert "Heads tuned with labels (off by 0.03, within 0.10 in both orders in 1 of 1 cells" in told
    assert "+0.10 more right than the offset alone, which is worth tuning for" in told
    farther = cells.assign(imbalance=[0.5, 0.03, 0.2, 0.2])
    assert "Take heads tuned with labels (off by 0.03" in verdict_of(farther, chances)
    assert "at the cost of nothing at inference" in verdict_of(farther, chances)
    assert "What changes no weights comes to an offset" in verdict_of(farther, chances)
    table = [
        {
            "fitted_on": "a", "asked": "b", "method": method, "variant": str(variant),
            "imbalance": off, "accuracy": right, "auc": 1 - off,
        }
        for method, variant, off, right in (
            ("nasa", "seed 0", 0.1, 0.7), ("nasa", "seed 1", 0.0, 0.9), ("random heads", "set 0", 0.1, 0.6),
            ("random heads", "set 1", 0.2, 0.65), ("random heads", "set 2", 0.4, 0.8),
        )
    ]  # fmt: skip
    found = TransferMatrix(pd.DataFrame(table), RunInfo("tiny", "own", 4, ("yes_no",)), {}).p_values()
    assert found.loc[0, ["p", "p_accuracy", "p_auc", "sets"]].tolist() == [0.5, 0.5, 0.5, 3]
    told = verdict_of(cells, found)
    assert (
        "imbalance 0.20 where the chosen ones have 0.10 (p from 0.50 to 0.50; no set as good in 0 of 1 cells)" in told
    )
    assert "accuracy 0.65 where the chosen ones have 0.70 (p from 0.50 to 0.50; no set as good in 0 of 1 cells)" in told
    assert "AUC 0.80 where the chosen ones have 0.90" in told
    chance = {f"{name}{end}": [0.1, 0.2] for end in ("", "_accuracy", "_auc") for name in ("random", "nasa", "p")}
    told = verdict_of(cells, pd.DataFrame(chance | {"p": [0.05, 0.1], "sets": [19, 19]}))
    assert "p from 0.05 to 0.10; no set as good in 1 of 2 cells" in told
    assert verdict_of(cells[:1], chances) == "As it is, the model is off balance by 0.50 (median over what was asked)."


def test_what_is_fitted_on_may_not_be_asked(model) -> None:
    fitted, columns = conditions()
    with pytest.raises(QuestionError, match="is among those on which cures are fitted"):
        transfer_matrix(model, ["0.1"], fitted, [Condition("same", asked(4, 12))], **OPTIONS)
    with pytest.raises(QuestionError, match="would be set aside"):
        transfer_matrix(model, ["0.1"], fitted, columns, **{**OPTIONS, "n_unlabeled": 10})
    with pytest.raises(QuestionError, match="without questions to validate on"):
        transfer_matrix(model, ["0.1"], [Condition("here", asked(0))], columns, **OPTIONS)
    with pytest.raises(AlignmentError, match="2 numbers of random sets for 1 conditions"):
        transfer_matrix(model, ["0.1"], fitted, columns, **{**OPTIONS, "n_random": [1, 2]})
    with pytest.raises(AlignmentError, match="heads need a seed"):
        transfer_matrix(model, ["0.1"], fitted, columns, **OPTIONS, seeds=())
    with pytest.raises(AlignmentError, match="there is no method 'magic'"):
        transfer_matrix(model, ["0.1"], fitted, columns, methods=["magic"], **OPTIONS)


def test_the_built_in_conditions_share_nothing() -> None:
    fitted, columns = builtin_conditions()
    assert len(fitted) == 3
    assert len(columns) == 6
    kinds = [set(q.group for q in condition.questions) for condition in columns[:2]]
    assert not kinds[0] & kinds[1]
    assert len(kinds[0] | kinds[1]) == 8
    seen = {q.question for row in fitted for q in (*row.questions, *row.held_out)}
    assert not seen & {q.question for column in columns for q in column.questions}
    assert np.unique([c.name for c in columns]).size == 6


def test_methods_are_judged_by_the_rows_that_all_of_them_have() -> None:
    def cell(fitted: str, method: str, off: float) -> dict:
        sides = {"imbalance_yes_no": off, "imbalance_no_yes": off}
        return {
            "fitted_on": fitted,
            "asked": "b",
            "method": method,
            "imbalance": off,
            "accuracy": 0.5,
            "auc": 0.5,
        } | sides

    none = pd.DataFrame(columns=["fitted_on", "asked", "sets", "nasa", "random", "p"])
    cells = [cell("", "as it is", 0.5), cell("here", "nasa", 0.05), cell("here", "lora", 0.2)]
    both = [cell("there", "nasa", 0.4), cell("there", "lora", 0.1)]
    assert "fitted on" not in verdict_of(pd.DataFrame([*cells, *both]), none)
    told = verdict_of(pd.DataFrame([*cells, both[0]]), none)
    assert "Of what was fitted on here, as all methods were: Take heads tuned with labels (off by 0.05" in told
    assert "in 1 of 1 cells" in told


@pytest.mark.filterwarnings("ignore:.*thoughts")
def test_a_cured_model_thinks_anew(model, tmp_path) -> None:
    """Its cell is what it decides by itself, behind its own thoughts and not those of the untuned model."""
    fitted, _ = conditions()
    style = ni.PromptStyle(think=4)
    column = Condition("thinking", asked(300, 12), style)
    transfer_matrix(model, ["0.1"], fitted, [column], methods=["nasa"], folder=tmp_path, **OPTIONS)
    tuned = ni.alignment.Alignment.load(next(tmp_path.glob("transfer/tuning/*/*/align.json")).parent)
    cell = next(tmp_path.glob("transfer/here-*/nasa_seed_0/*/report.json"))
    _, rest = parts(column.questions, OPTIONS["n_unlabeled"], 0)
    with tuned.delta.applied(model):
        alone = ni.decide(model, rest, style=style, draws=5, progress=False)
    np.testing.assert_allclose(ni.decisions.BinaryReport.load(cell).logit_differences, alone.logit_differences)
    untuned = ni.decide(model, rest, style=style, draws=5, progress=False)
    assert not np.allclose(untuned.logit_differences, alone.logit_differences)
