"""The schemas of result files: they are those of the builder, cover every kind, and say no to what is wrong."""

import copy
import json
import re
import warnings
from pathlib import Path

import jsonschema
import pytest
import schemas

import nasa_interp as ni
from nasa_interp.harness import write_task
from nasa_interp.results import write_result

PACKAGE = Path(ni.__file__).parent
# Not files of JSON: the first two are the metadata of tensor files, the third is a word in a log, the fourth the first
# line of a file of kept answers.
NO_FILES = {"head_delta", "mean", "scaled heads", "served_answers"}


def kinds_in_the_code() -> set[str]:
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    found = {kind for text in texts for kind in re.findall(r'"kind": "([^"]+)"', text)}
    found |= {kind for text in texts for kind in re.findall(r'\bKIND(?:: ClassVar\[str\])? = "([^"]+)"', text)}
    return found | {"part", "stream_setting"}


def test_every_kind_of_result_has_a_schema() -> None:
    assert kinds_in_the_code() - NO_FILES == set(schemas.builder().KINDS)


def test_the_schemas_are_those_of_the_builder() -> None:
    """`make schemas` writes them."""
    folder = schemas.DOCS / "schemas"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == schemas.builder().pages()


@pytest.mark.parametrize("kind", schemas.builder().KINDS)
def test_a_schema_is_one(kind) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas.builder().schema(kind))


@pytest.fixture(scope="module")
def written(tiny, questions, tmp_path_factory) -> dict[str, dict]:
    """Results of a tiny model, by their kind."""
    folder = tmp_path_factory.mktemp("results")
    with warnings.catch_warnings():
        # That a random model means to say something else.
        warnings.simplefilter("ignore", UserWarning)
        report = ni.decide(tiny, questions, draws=20, progress=False)
        scores = ni.score_heads(tiny, questions, progress=False)
        effect = ni.ablation_effect(tiny, questions, scores.top(1, toward="bias"), ni.Zero())
    write_task(tiny, questions, folder / "task", name="t")
    for name, result in (("report", report), ("scores", scores), ("effect", effect)):
        result.save(folder / f"{name}.json")
    scores.top(2, toward="bias").save(folder / "heads.json")
    contents = [json.loads(path.read_text()) for path in [*folder.glob("*.json"), folder / "task" / "t.json"]]
    return {content["kind"]: content for content in contents}


def test_real_results_keep_to_their_schema_and_all_their_fields_are_named(written) -> None:
    assert written.keys() == {"binary_report", "head_scores", "ablation_effect", "heads", "harness_task"}
    for kind, content in written.items():
        schemas.check(content)
        assert content.keys() <= schemas.builder().schema(kind)["properties"].keys(), kind


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("binary_report", ("decisions", 0, "label"), "yes"),
        ("binary_report", ("decisions", 0, "logit_difference"), None),
        ("binary_report", ("overall", "auc", "interval"), [0.5]),
        ("head_scores", ("tensors_sha256",), "abc"),
        ("heads", ("toward",), "left"),
        ("ablation_effect", ("orders", "no_yes"), None),
        ("harness_task", ("lead",), "\n"),
    ],
)
def test_what_is_wrong_is_refused(written, kind, path, value) -> None:
    content = copy.deepcopy(written[kind])
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(AssertionError, match=kind):
        schemas.check(content)


def test_a_required_field_may_not_be_missing(written) -> None:
    for kind, content in written.items():
        for name in schemas.builder().schema(kind)["required"]:
            if name != "kind":
                with pytest.raises(AssertionError, match=f"'{name}' is a required property"):
                    schemas.check({key: value for key, value in content.items() if key != name})


def test_results_are_held_to_them_while_tests_run(written, tmp_path) -> None:
    with pytest.raises(AssertionError, match="required property"):
        write_result(tmp_path / "a.json", {"kind": "heads"})
    assert not (tmp_path / "a.json").exists()
    assert write_result(tmp_path / "a.json", written["heads"]).exists()
