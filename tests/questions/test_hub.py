"""Data sets through the `datasets` library: a local folder of Parquet files stands for the hub."""

import datasets
import pytest
from rows_of_sets import GSM8K, MATH, MUSIQUE, write_lines

from nasa_interp import load_questions
from nasa_interp.errors import QuestionError
from nasa_interp.questions import hub

LABELED = {"text": ["Is 2 even?", "Is 3 even?"], "verdict": [True, False], "passage": ["It is two.", None]}
SHORT = {
    "question": ["2+2?", "A half?", "Who?"],
    "solution": ["4", r"\frac{1}{2}", "Bob"],
    "kind": ["sum", "part", "name"],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """The library's cache and its bars, in this test alone."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def folder(tmp_path):
    """Writes splits into a folder and gives its name."""

    def write(**splits):
        place = tmp_path / "set"
        place.mkdir(exist_ok=True)
        for split, columns in splits.items():
            datasets.Dataset.from_dict(columns).to_parquet(place / f"{split}-00000-of-00001.parquet")
        return place

    return write


def test_columns_are_mapped_and_the_split_is_named(folder):
    place = folder(validation=LABELED, test={name: column[:1] for name, column in LABELED.items()})
    data = f"hub:{place}#validation,question=text,label=verdict,context=passage"
    questions = load_questions(data)
    assert [(q.question, q.label, q.context) for q in questions] == [
        ("Is 2 even?", True, "It is two."),
        ("Is 3 even?", False, None),
    ]
    assert questions.name == data
    assert len(load_questions(data.replace("validation", "test"))) == 1
    with pytest.raises(QuestionError, match=r"has no split '' .found: (validation, test|test, validation).; name one"):
        load_questions(f"hub:{place}")
    with pytest.raises(QuestionError, match="has no split 'train'"):
        load_questions(f"hub:{place}#train")


def test_short_answers_are_proposed(folder):
    data = f"hub:{folder(train=SHORT)}#answer=solution,group=kind"
    with pytest.warns(UserWarning, match=r"1 row is left out .*row 3: no wrong answer of the same kind as 'Bob'"):
        questions = load_questions(data)
    assert [q.group for q in questions] == ["sum", "sum", "part", "part"]
    assert {q.label for q in questions} == {True, False}
    with pytest.warns(UserWarning, match="left out"):
        others = [load_questions(f"{data},seed={seed}") for seed in range(1, 4)]
    assert any(other != questions for other in others)


@pytest.mark.parametrize(("name", "rows"), [("gsm8k", GSM8K), ("math", MATH), ("musique", MUSIQUE)])
def test_a_known_format_gives_what_its_own_file_gives(folder, tmp_path, name, rows):
    place = folder(train={key: [row[key] for row in rows] for key in rows[0]})
    own = load_questions(f"{name}:{write_lines(tmp_path / 'rows.jsonl', rows)}#seed=2")
    assert load_questions(f"hub:{place}#as={name},seed=2") == own


def test_without_labels_all_are_unlabeled_and_bad_rows_are_named(folder):
    place = folder(train={"question": ["a?", "", None]})
    with pytest.raises(QuestionError, match=r"set, row 2: the question is ''"):
        load_questions(f"hub:{place}")
    with pytest.warns(UserWarning, match="2 rows are left out"):
        assert [q.label for q in load_questions(f"hub:{place}", skip_bad=True)] == [None]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("#label=truth", r"no column 'truth' .found: question, label.; correct label="),
        ("#as=quiz", "as=quiz is unknown; use one of strategyqa, gsm8k"),
        ("#lable=x", "'lable=x' is unknown there"),
        ("#train,test", "'test' is one too many"),
    ],
)
def test_what_is_not_there_is_one_clear_line(folder, asked, says):
    with pytest.raises(QuestionError, match=says):
        load_questions(f"hub:{folder(train={'question': ['a?'], 'label': [1]})}{asked}")


def test_without_a_connection_the_way_out_is_a_folder(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(QuestionError, match=r"hub:nobody/nothing can't be loaded \(.*a local folder") as error:
        load_questions("hub:nobody/nothing@abc#test")
    assert "\n" not in str(error.value)


def test_the_revision_that_was_read_is_part_of_the_name(folder, monkeypatch):
    place = folder(train=SHORT)
    real, asked = datasets.load_dataset_builder, {}

    def from_hub(name, config, revision=None):
        asked.update(name=name, config=config, revision=revision)
        builder = real(str(place))
        monkeypatch.setattr(builder, "base_path", f"hf://datasets/{name}@0123abc")
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", from_hub)
    with pytest.warns(UserWarning, match="left out"):
        questions = load_questions("hub:some/set@main#answer=solution,config=small")
    assert asked == {"name": "some/set", "config": "small", "revision": "main"}
    assert questions.name == "hub:some/set@0123abc#answer=solution,config=small"
    assert hub.COLUMNS[0] == "question"
