"""The README's Python, run as it stands there; only the models and the number of questions are small."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import families
import pytest
import transformers
from rows_of_sets import MUSIQUE, write_lines
from scripted_server import Reply, chat_reply, scripted

import nasa_interp as ni

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)
NEWCOMER, STEPS, CLICKS, OFFSETS, FORMS, SERVED, HOOKED, DATA = BLOCKS
HUB_ID = r'load_model\("([^"]+/[^"]+)"\)'


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory) -> Path:
    """The hub's local cache with one model in it, under an id of its own."""
    cache = tmp_path_factory.mktemp("hub")
    stored = cache / "models--tiny--llama"
    snapshot = stored / "snapshots" / ("0" * 40)
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text("0" * 40)
    families.tiny_model("llama").save_pretrained(snapshot)
    families.tiny_tokenizer().save_pretrained(snapshot)
    return cache


def test_a_newcomer_needs_at_most_six_lines() -> None:
    lines = [line for line in NEWCOMER.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 6
    assert re.search(HUB_ID, NEWCOMER)
    assert lines[-1].startswith("ni.head_heatmap(")


def test_the_newcomers_lines_draw_a_hub_model(hub_cache, tmp_path) -> None:
    """In a process of its own, with the model found by its id and no network."""
    source = re.sub(HUB_ID, 'load_model("tiny/llama")', NEWCOMER)
    *lines, last = source.strip().splitlines()
    script = "\n".join([*lines, f"figure = {last}", "print(figure.data[0].z.shape, figure.layout.title.subtitle.text)"])
    environment = {**os.environ, "HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = families.tiny_model("llama").config
    assert done.stdout.startswith(f"{(config.num_hidden_layers, config.num_attention_heads)} tiny/llama, ")


@pytest.mark.filterwarnings("ignore:answer mass under:UserWarning", "ignore:calibrated on 6:UserWarning")
def test_the_served_lines_run(questions, tmp_path, monkeypatch) -> None:
    """Against a server that says No the more, the longer the question is."""
    monkeypatch.chdir(tmp_path)

    def reply(asked, number):
        if asked.path.endswith("/models"):
            return Reply({"data": [{"id": "only"}]})
        words = len(asked.body["messages"][-1]["content"].split())
        return Reply(chat_reply({"No": -0.5, "Yes": -0.5 - words / 10}))

    with scripted(reply) as server:
        space = {"ni": ni, "own": questions}
        exec(compile(SERVED.replace("http://127.0.0.1:8080/v1", server.url), "README.md", "exec"), space)
    assert space["served"].yes_rate == 0
    assert len(server.asked) == 1 + 2 * len(questions)  # what decide asked, calibrate doesn't ask again
    assert space["leaning"].offsets["yes_no"] > 0


def test_the_steps_run(tiny, tmp_path, monkeypatch) -> None:
    """All that follows the newcomer's lines, in one go; the cured model loads again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ni, "load_model", lambda name: tiny)
    rows = [{"question": q.question, "label": q.label} for q in ni.load_questions("builtin:verify#val", 12, seed=5)]
    Path("questions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    space = {name: ni.load_questions(f"builtin:verify#{name}", 48) for name in ("probe", "val", "test")}
    source = re.sub(r'"builtin:verify#(\w+)"', r"\1", NEWCOMER + STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(source, "README.md", "exec"), space)
        exec(compile(re.sub(r'"builtin:verify#(\w+)"', r"\1", CLICKS), "README.md", "exec"), space)
        exec(compile(OFFSETS, "README.md", "exec"), space)
        exec(compile(FORMS, "README.md", "exec"), space)
    assert abs(space["report"].calibrated(space["offsets"]).yes_rate - 0.5) < abs(space["report"].yes_rate - 0.5)
    assert space["explorer"].view["head"] == space["explorer"].shown
    assert isinstance(space["report"], ni.decisions.BinaryReport)
    assert list(space["found"].grid().columns) == ["yes-no", "reversed", "unsure"]
    assert ni.HeadList.load("heads.json") == space["heads"]
    cured = transformers.AutoModelForCausalLM.from_pretrained("cured")
    changed = sum(int((a != b).sum()) for a, b in zip(cured.parameters(), tiny.hf.parameters(), strict=True))
    assert 0 < changed <= space["run"].delta.n_changed


def test_with_transformer_lens_is_twelve_lines_that_run(hub_cache, tmp_path) -> None:
    """Boot, heat map, knock out, tune, look again: with TransformerLens's own way to boot, from the hub's cache."""
    assert len([line for line in HOOKED.splitlines() if line.strip()]) <= 12
    source = re.sub(r'boot_transformers\("[^"]+"\)', 'boot_transformers("tiny/llama")', HOOKED)
    # A random model has no bias to take away: what is shown is that the lines run, and that something was tuned.
    limits = "limits=ni.Limits(0.0, 1.0, 1.0, 9.0), recipe=ni.Recipe(learning_rate=2e-2), progress=False"
    source = source.replace('val="builtin:verify#val")', f'val="builtin:verify#val", {limits})')
    script = f"import nasa_interp as ni\n{source}\nprint(run.delta.n_changed, run.run.engine, scores.run.engine)"
    environment = {**os.environ, "HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    changed, *engines = done.stdout.split()[-3:]
    assert int(changed) > 0
    assert engines == ["fused", "fused"]


def test_the_lines_on_data_run(tmp_path, monkeypatch) -> None:
    """On rows in the data set's format, written for the tests."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "musique_ans_v1.0_dev.jsonl", MUSIQUE)
    space = {"ni": ni}
    exec(compile(DATA, "README.md", "exec"), space)
    assert len(space["questions"]) == 2 * len(MUSIQUE)
    assert all(question.context for question in space["questions"])
