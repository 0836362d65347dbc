"""lm-evaluation-harness and inspect_ai themselves, where they are installed (`make harness`): they answer as we do."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from families import tiny_model, tiny_tokenizer
from llama_server import llama_server

import nasa_interp as ni
from nasa_interp.deltas import export
from nasa_interp.harness import write_task
from nasa_interp.models import load_tokenizer
from nasa_interp.models.loading import demo_file

LM_EVAL, INSPECT = (importlib.util.find_spec(name) is not None for name in ("lm_eval", "inspect_ai"))
STYLES = {
    "chat": ni.PromptStyle(),
    "plain": ni.PromptStyle(kind="plain"),
    "system": ni.PromptStyle(system="You answer every question with one single word."),
    "examples": ni.PromptStyle(
        examples=(ni.BinaryQuestion("Is it?", True, "s"), ni.BinaryQuestion("Is 1?", False, "t"))
    ),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny model as `export --format hf` writes it."""
    model = ni.load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    return export(model, None, tmp_path_factory.mktemp("model") / "tiny")


def run(line: str, folder, **environment) -> None:
    """A command line as it stands in the task's README.md, with this interpreter's programs."""
    programs = str(Path(sys.executable).parent)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment |= {"PATH": path, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        line, shell=True, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def scores_in(logs: Path) -> dict[tuple[str, str], dict]:
    """inspect_ai's score of every question and order, from its logs of the task t."""
    found = {}
    for log in (json.loads(path.read_text()) for path in logs.glob("*.json")):
        assert log["status"] == "success"
        order = log["eval"]["task"].removeprefix("t_")
        found |= {(sample["id"], order): sample["scores"]["decision"] for sample in log["samples"]}
    return found


def ours(model, questions, style) -> dict[tuple[str, str], float]:
    report = ni.decide(model, questions, style=style, draws=20, progress=False)
    rows = zip(report.questions, report.order, report.logit_differences, strict=True)
    return {(q.id, order): float(d) for q, order, d in rows}


@pytest.mark.filterwarnings("ignore:answer mass")
@pytest.mark.skipif(not LM_EVAL, reason="lm-evaluation-harness is not installed; `make harness` runs it")
@pytest.mark.parametrize("style", STYLES)
def test_lm_evaluation_harness_decides_as_we_do(style, exported, questions, tmp_path) -> None:
    model, chosen = ni.load_model(exported), STYLES[style]
    task = write_task(model, questions, tmp_path / "task", name="t", style=chosen)
    moved = task.folder.rename(tmp_path / "moved")
    line = task.commands["lm_eval"].replace("MODEL", str(exported)).replace(str(task.folder), str(moved))
    run(f"{line} --output_path {tmp_path / 'out'} --log_samples --batch_size 4", exported)
    found, d = {}, ours(model, questions, chosen)
    for order in task.orders:
        (samples,) = (tmp_path / "out").rglob(f"samples_t_{order}_*.jsonl")
        for row in map(json.loads, samples.read_text().splitlines()):
            (yes, _), (no, _) = row["filtered_resps"]
            found[row["doc"]["id"], order] = float(no) - float(yes)
    assert found.keys() == d.keys()
    assert max(abs(found[key] - d[key]) for key in d) < 1e-4
    (results,) = (tmp_path / "out").rglob("results_*.json")
    group = json.loads(results.read_text())["groups"]["t"]
    label = {q.id: q.label for q in questions}
    assert group["yes_rate,none"] == pytest.approx(np.mean([value < 0 for value in d.values()]))
    assert group["acc,none"] == pytest.approx(np.mean([(value < 0) == label[key[0]] for key, value in d.items()]))
    assert group["mean_logit_difference,none"] == pytest.approx(np.mean(list(d.values())), abs=1e-4)


@pytest.mark.filterwarnings("ignore:answer mass")
@pytest.mark.skipif(not INSPECT, reason="inspect_ai is not installed; `make harness` runs it")
@pytest.mark.parametrize("style", STYLES)
def test_inspect_ai_decides_as_we_do_where_it_can_see_the_answers(style, exported, questions, tmp_path) -> None:
    model, chosen = ni.load_model(exported), STYLES[style]
    task = write_task(model, questions, tmp_path / "task", name="t", style=chosen)
    # The local provider returns as many of the likeliest tokens as it is asked for: here all of them.
    every = len(model.tokenizer)
    line = f"{task.commands['inspect_ai'].replace('MODEL', str(exported))} -T top_logprobs={every}"
    run(f"{line} --log-format json --display plain", exported, INSPECT_LOG_DIR=str(tmp_path / "logs"))
    d, scored = ours(model, questions, chosen), scores_in(tmp_path / "logs")
    for key, score in scored.items():
        assert score["value"]["answered"] == 1
        assert score["value"]["yes_rate"] == (d[key] < 0)
    found = {key: score["metadata"]["logit_difference"] for key, score in scored.items()}
    assert found.keys() == d.keys()
    assert max(abs(found[key] - d[key]) for key in d) < 1e-4


@pytest.mark.filterwarnings("ignore:answer mass")
@pytest.mark.skipif(not INSPECT, reason="inspect_ai is not installed; `make harness` runs it")
def test_inspect_ai_decides_as_we_do_at_a_server(questions, tmp_path) -> None:
    """llama.cpp runs the embedded model; both programs read its log-probabilities."""
    task = write_task(load_tokenizer("demo"), questions, tmp_path / "task", name="t")
    with llama_server(demo_file()) as server:
        report = ni.decide(ni.load_server(server.url), questions, draws=20, progress=False)
        line = task.commands["inspect_ai, served"].replace("ADDRESS", server.url)
        run(f"{line} --log-format json --display plain", tmp_path, INSPECT_LOG_DIR=str(tmp_path / "logs"))
    found = {key: score["metadata"]["logit_difference"] for key, score in scores_in(tmp_path / "logs").items()}
    rows = zip(report.questions, report.order, report.logit_differences, strict=True)
    assert found == pytest.approx({(q.id, order): float(d) for q, order, d in rows}, abs=1e-4)
