"""docs/extending.md does what it says: its code runs, and what it registers is taken by name."""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from families import tiny_model, tiny_tokenizer

import nasa_interp as ni
from nasa_interp.errors import QuestionError
from nasa_interp.report import rows

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```python\n# nasa_interp/(\S+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def registries():
    """The registrations, put back as they were."""
    tables = [ni.interventions.INTERVENTIONS, ni.alignment.OBJECTIVES, ni.questions.SOURCES]
    kept, drawn = [dict(table) for table in tables], list(rows.DRAWN)
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)
    rows.DRAWN[:] = drawn


@pytest.fixture
def space(registries):
    """What the page takes for granted, and then what its code made."""
    model = ni.load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    verify = {split: ni.load_questions(f"builtin:verify#{split}", limit=24) for split in ("probe", "val")}
    names = {
        "model": model,
        "questions": verify["val"],
        "heads": ["1.0", "0.2", "1.3"],
        **verify,
        "limits": ni.Limits(imbalance=0.0, auc=1.0, answer_mass=1.0, perplexity=100.0),
        "texts": ["Water freezes at zero degrees; iron is a metal."],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for file, code in BLOCKS.items():
            exec(compile(code, file, "exec"), names)
    return names


def test_each_addition_is_one_file_in_a_room_that_is_there() -> None:
    assert len(BLOCKS) == 4
    package = Path(ni.__file__).parent
    for file in BLOCKS:
        assert (package / file).parent.is_dir()
        assert not (package / file).exists()


def test_the_intervention_acts(space) -> None:
    effect = space["effect"]
    assert effect.intervention == space["Flip"]()
    scaled = ni.ablation_effect(
        space["model"], space["questions"], space["heads"], ni.Scale(-1.0), draws=20, progress=False
    )
    assert np.array_equal(effect.changed.logit_differences, scaled.changed.logit_differences)
    assert not np.array_equal(effect.changed.logit_differences, effect.base.logit_differences)


def test_the_objective_tunes(space) -> None:
    assert space["run"].delta.n_changed > 0
    assert "Margin" in str(space["run"].delta.log["recipe"]["objective"])


def test_the_source_is_named_like_any_other(space) -> None:
    assert space["report"].run.data == "parity:12"
    assert [q.label for q in ni.load_questions("parity:4")] == [True, False, True, False]
    with pytest.raises(QuestionError, match="parity:0 holds no questions"):
        ni.load_questions("parity:0")


def test_the_figure_is_drawn_by_the_report_too(space, tmp_path) -> None:
    assert isinstance(space["figure"], go.Figure)
    frame = pd.DataFrame({"logit_difference": [0.1, -0.2], "group": ["a", "b"]})
    path = tmp_path / "own.json"
    path.write_text(frame.to_json(orient="records"))
    section = rows.rows_section(path)
    assert section is not None
    assert "Decisions by group" in section.figures[0].layout.title.text
