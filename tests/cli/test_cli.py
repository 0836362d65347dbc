"""The command line as a user meets it: real processes, exit statuses, one line a mistake, no half-written file."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import get_args, get_type_hints

import numpy as np
import pandas as pd
import pytest
from families import tiny_model, tiny_tokenizer

from nasa_interp.cli import running
from nasa_interp.cli.shared import with_shared_options
from nasa_interp.cli.show import print_scores
from nasa_interp.deltas.formats import Format
from nasa_interp.heads import HeadList
from nasa_interp.interventions import Zero
from nasa_interp.patching import patch_data
from nasa_interp.prompts import PromptStyle
from nasa_interp.run import RunInfo
from nasa_interp.scoring import HeadScores, score_heads

# All bad calls go through one process, as importing takes seconds; each is a fresh call of the program's entry.
RUNNER = """
import contextlib, io, json, resource, sys
from nasa_interp.cli import main
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""


def call(*calls, cwd=None, largest=None):
    """Status, stdout and stderr of each call; files over `largest` bytes can't be written, as on a full disk."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, *([] if largest is None else [str(largest)])],
        input=json.dumps([list(map(str, c)) for c in calls]),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model, a good question file and several bad ones."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_model("llama").save_pretrained(folder / "tiny")
    tiny_tokenizer().save_pretrained(folder / "tiny")
    rows = [{"question": f"Is {i} even?", "label": i % 2 == 0, "group": "even"} for i in range(8)]
    (folder / "good.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "field.jsonl").write_text('{"question": "a?", "label": 1}\n{"question": "b?"}')
    (folder / "label.csv").write_text("question,label\na?,yes\nb?,maybe\n")
    (folder / "empty.jsonl").write_text("")
    (folder / "long.jsonl").write_text(json.dumps({"question": "word " * 4000, "label": True, "id": "long-one"}))
    (folder / "outside.json").write_text('["9.9"]')
    (folder / "inside.json").write_text('["1.2"]')
    (folder / "random.gguf").write_bytes(os.urandom(4096))
    return folder


def test_bad_input_is_one_clear_line_and_status_1(place):
    good = ["--data", "good.jsonl"]
    cases = {
        "line 2: no field 'label'": ["score", "tiny", "--data", "field.jsonl"],
        "line 3: label 'maybe' is none of": ["decide", "tiny", "--data", "label.csv"],
        "empty.jsonl holds no questions": ["score", "tiny", "--data", "empty.jsonl"],
        "unknown data 'foo'": ["score", "tiny", "--data", "foo"],
        "holds it 0 times": ["score", "tiny", *good, "--instruction", "Answer Yes."],
        "holds it 2 times": ["decide", "tiny", *good, "--instruction", "Yes or No? No!"],
        "'long-one' makes a prompt of": ["decide", "tiny", "--data", "long.jsonl"],
        "'nobody/nothing' can't be loaded": ["decide", "nobody/nothing", *good],
        "random.gguf is not a whole GGUF file": ["doctor", "random.gguf"],
        "missing.gguf can't be read": ["doctor", "missing.gguf"],
        "dtype 'int3' is unknown": ["score", "tiny", *good, "--dtype", "int3"],
        "9.9 is outside the model": ["ablate", "tiny", *good, "--heads", "outside.json"],
        "nowhere.json does not exist": ["heads", "nowhere.json"],
        "good.jsonl can't be read as JSON": ["heads", "good.jsonl"],
    }
    calls = [[*c, "--out", "half.json"] if c[0] in ("score", "decide", "ablate") else c for c in cases.values()]
    for (says, asked), (status, out, err) in zip(cases.items(), call(*calls, cwd=place), strict=True):
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert status == 1, (asked, err)
        assert len(errors) == 1, (asked, err)
        assert says in errors[0], (asked, errors)
        assert out == ""
        assert "Traceback" not in err
    assert not list(place.glob("half*"))
    assert not list(place.glob(".half*"))


def test_bad_rows_are_an_error_or_are_skipped_and_counted(place):
    rows = [
        json.dumps({"question": f"{i}+1?", "answer": f"{i}+1=<<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"}) for i in (3, 5)
    ]
    (place / "gsm8k.jsonl").write_text("\n".join([rows[0], "{", rows[1], '{"question": null}']))
    asked = ["decide", "tiny", "--data", "gsm8k:gsm8k.jsonl", "--out", "skipped.json"]
    refused, skipped = call(asked, [*asked, "--skip-bad"], cwd=place)
    assert refused[0] == 1
    assert "error: gsm8k.jsonl, line 2 is not JSON" in refused[2]
    assert skipped[0] == 0, skipped[2]
    assert skipped[2].count("2 rows are left out (gsm8k.jsonl, line 2: is not JSON") == 1
    content = json.loads((place / "skipped.json").read_text())
    assert len({row["id"] for row in content["decisions"]}) == 4
    assert any("2 rows are left out" in note for note in content["run"]["notes"])


WORDS = {
    ("decide", "--order"): ("both", "yes_no", "no_yes"),
    ("decide", "--by"): ("logits", "generation"),
    ("decide", "--prompt"): ("auto", "chat", "plain"),
    ("score", "--order"): ("both", "yes_no", "no_yes"),
    ("score", "--engine"): ("auto", "fused", "hooked"),
    ("score", "--per"): ("prompt", "query"),
    ("heads", "--by"): ("values", "polarity", "recency"),
    ("heads", "--toward"): ("no", "yes", "bias"),
    ("score", "--toward"): ("no", "yes", "bias"),
    ("ablate", "--positions"): ("all", "after", "last"),
    ("patch", "--pairs"): ("question", "neutral", "order"),
    ("patch", "--by"): ("head", "class", "position"),
    ("patch", "--toward"): ("no", "yes"),
    ("export", "--format"): ("hf", "peft", "delta", "gguf", "gguf-lora"),
    ("ablate", "--do"): ("zero", "knockout", "swap"),
    ("align", "--objective"): ("answer", "balance", "nas"),
    ("compare", "--objective"): ("answer", "balance", "nas"),
}
GIVEN = {
    "ablate": ["--heads", "inside.json"],
    "align": ["--heads", "inside.json", "--out", "half"],
    "compare": ["--heads", "inside.json"],
    "export": ["--out", "half"],
}


def test_a_word_that_an_option_does_not_know_is_wrong_usage_and_names_the_known_ones(place):
    calls = [[name, "tiny", *GIVEN.get(name, []), option, "song"] for name, option in WORDS]
    for ((_, option), words), (status, out, err) in zip(WORDS.items(), call(*calls, cwd=place), strict=True):
        assert status == 2, err
        assert out == ""
        assert "Traceback" not in err
        assert all(part in err for part in (option, "'song'", *words)), err
    assert not (place / "half").exists()


def test_the_words_of_options_are_those_of_the_functions():
    for function, names, (command, option) in (
        (score_heads, "engine", ("score", "--engine")),
        (score_heads, "per", ("score", "--per")),
        (score_heads, "order", ("score", "--order")),
        (HeadScores.top, "toward", ("heads", "--toward")),
        (HeadScores.top, "toward", ("score", "--toward")),
        (PromptStyle, "kind", ("decide", "--prompt")),
        (Zero, "positions", ("ablate", "--positions")),
        (patch_data, "kind", ("patch", "--pairs")),
        (patch_data, "by", ("patch", "--by")),
    ):
        assert get_args(get_type_hints(function)[names]) == WORDS[command, option]
    assert get_args(Format) == WORDS["export", "--format"]


def test_a_commands_shared_options_come_as_one_value():
    @dataclass(frozen=True)
    class Shared:
        low: int = 1
        high: int = 2

    def command(name: str, *, first: bool = False, shared: Shared, last: int = 0) -> None:
        assert (name, first, shared, last) == ("x", True, Shared(1, 5), 7)

    expanded = with_shared_options(command)
    assert list(signature(expanded).parameters) == ["name", "first", "low", "high", "last"]
    assert [p.default for p in signature(expanded).parameters.values()] == [Parameter.empty, False, 1, 2, 0]
    assert get_type_hints(expanded) == {"name": str, "first": bool, "low": int, "high": int, "last": int}
    expanded(name="x", first=True, low=1, high=5, last=7)


def test_wrong_usage_is_status_2(place):
    cases = [["decide"], ["decide", "tiny", "--bogus"], ["fly"], ["decide", "tiny", "--limit", "0"]]
    cases += [["decide", "tiny", "--candidates", "Yes"]]
    for name in RUN_A_MODEL:
        model = [] if name == "demo" else ["tiny"]
        cases.append([name, *model, *GIVEN.get(name, []), "--seed", "-1"])
    for status, _, err in call(*cases, cwd=place):
        assert status == 2, err
        assert "Traceback" not in err


def test_the_whole_path_on_a_tiny_model(place):
    good = ["tiny", "--data", "good.jsonl"]
    results = call(
        ["decide", *good, "--out", "report.json"],
        ["decide", *good, "--json"],
        ["decide", *good, "--by", "generation", "--out", "answers.csv"],
        ["score", *good, "--out", "scores.json"],
        ["score", *good, "--json", "--limit", "2"],
        [
            "heads",
            "scores.json",
            "--top",
            "3",
            "--by",
            "polarity",
            "--toward",
            "bias",
            "--out",
            "heads.json",
            "--pasta",
            "pasta.json",
        ],
        ["heads", "scores.json", "--json", "--toward", "bias"],
        ["ablate", *good, "--heads", "heads.json", "--controls", "2", "--out", "effect.json"],
        [
            "ablate",
            *good,
            "--heads",
            "pasta.json",
            "--do",
            "knockout",
            "--positions",
            "after",
            "--controls",
            "0",
            "--json",
        ],
        ["doctor", "tiny"],
        ["doctor", "tiny", "--json"],
        ["decide", *good, "--instruction", "Yes or No?", "--instruction", "Say Yes or No.", "--out", "turns.json"],
        cwd=place,
    )
    assert [status for status, _, _ in results] == [0] * len(results), results
    decided, as_json, generated, scored, scored_json, listed, listed_json = (out for _, out, _ in results[:7])
    ablated, ablated_json, looked, looked_json = (out for _, out, _ in results[7:11])
    assert "even" in decided
    assert json.loads(as_json)["all"]["n"] == 16
    assert "neither" in generated
    assert "heads by values, toward No (NAS, nats, summed over queries)\n" in scored
    assert "warning: 8 of 10 heads asked: the model has 8 heads; ask for fewer\n" in results[6][2]
    assert len(json.loads(scored_json)) == 8
    assert len(listed.splitlines()) == 4
    assert json.loads(listed_json)[0]["rank"] == 1
    assert "2 layer-matched random sets" in ablated
    assert json.loads(ablated_json)["control"] is None
    assert json.loads((place / "effect.json").read_text())["control"]["p"] in (1 / 3, 2 / 3, 1.0)
    assert "refused" not in looked
    assert json.loads(looked_json)["ok"] is True
    report = json.loads((place / "report.json").read_text())
    assert report["run"]["data"] == "good.jsonl"
    turns = json.loads((place / "turns.json").read_text())["run"]["template"]["instruction"]
    assert turns == ["Yes or No?", "Say Yes or No."]
    assert len(pd.read_csv(place / "answers.csv")) == 16
    kept = json.loads((place / "heads.json").read_text())
    assert (len(kept["heads"]), kept["toward"]) == (3, "bias")
    assert json.loads((place / "effect.json").read_text())["toward"] in ("no", "yes")


def test_questions_go_out_as_a_task_and_a_model_as_it_is(place):
    asked = ["task", "good.jsonl", "--model", "tiny", "--limit", "4", "--name", "mine"]
    results = call(
        [*asked, "--out", "task"],
        [*asked, "--out", "plain", "--form", "plain", "--order", "yes_no", "--json"],
        [*asked, "--out", "none", "--candidates", "is right,is wrong"],
        ["export", "tiny", "--out", "exported"],
        ["export", "task", "--out", "none"],
        ["export", "nobody/nothing", "--out", "none"],
        cwd=place,
    )
    assert [status for status, _, _ in results] == [0, 0, 1, 0, 1, 1], results
    assert "lm_eval --model hf" in results[0][1]
    assert "--apply_chat_template" in results[0][1]
    assert len((place / "task" / "mine_no_yes.jsonl").read_text().splitlines()) == 4
    assert json.loads(results[1][1])["orders"] == ["yes_no"]
    assert "error: the candidate 'is right' has several tokens" in results[2][2]
    assert (place / "exported" / "config.json").exists()
    assert "error: task is no run folder" in results[4][2]
    assert "nobody/nothing" in results[5][2]
    assert not (place / "none").exists()


def test_shells_can_complete_commands_and_options():
    """What `--install-completion` makes a shell ask."""
    program = "import sys; sys.argv = ['nasa-interp']; from nasa_interp.cli import entry; entry()"
    for words, completed in (("nasa-interp ta", "task"), ("nasa-interp task --ord", "--order")):
        told = {"_NASA_INTERP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run([sys.executable, "-c", program], env=os.environ | told, capture_output=True, text=True)
        assert done.stdout.split() == [completed], done.stderr


WRITE_A_FILE = {
    "decide": ["decide", "nobody/nothing", "--data", "good.jsonl", "--out"],
    "answers": ["decide", "nobody/nothing", "--data", "good.jsonl", "--by", "generation", "--out"],
    "score": ["score", "nobody/nothing", "--data", "good.jsonl", "--out"],
    "heads": ["heads", "nowhere.json", "--out"],
    "pasta": ["heads", "nowhere.json", "--pasta"],
    "ablate": ["ablate", "nobody/nothing", "--data", "good.jsonl", "--heads", "inside.json", "--out"],
    "patch": ["patch", "nobody/nothing", "--data", "good.jsonl", "--out"],
    "report": ["report", "nowhere", "--out"],
}
WRITE_A_FOLDER = {
    "align": ["align", "nobody/nothing", "--heads", "inside.json", "--out"],
    "compare": ["compare", "nobody/nothing", "--heads", "inside.json", "--out"],
    "export": ["export", ".", "--model", "nobody/nothing", "--out"],
    "task": ["task", "good.jsonl", "--model", "nobody/nothing", "--out"],
    "demo": ["demo", "--out"],
}


def test_a_command_that_fails_leaves_no_new_folder(place):
    before = sorted(place.iterdir())
    starts = [start for name, start in (WRITE_A_FILE | WRITE_A_FOLDER).items() if name != "demo"]
    starts += [[*start, "--data", "nowhere.jsonl", "--out"] for start in (["matrix", "tiny"], ["calibrate", "tiny"])]
    starts += [["transfer", "tiny", "--heads", "nowhere.json", "--out"]]
    for status, _, err in call(*([*start, "new/deep/result.json"] for start in starts), cwd=place):
        assert status == 1, err
        assert "can't be written" not in err
        assert sorted(place.iterdir()) == before, err


def test_a_place_that_cannot_be_written_is_found_before_anything_is_loaded(place):
    """Neither the model nor the scores of these calls exist: what is said is of the place alone."""
    taken = place / "taken"
    (taken / "tuned").mkdir(parents=True)
    (taken / "change").mkdir()
    (taken / "compared").mkdir()
    (taken / "file").write_text("mine")
    (taken / "scores.json.safetensors").write_text("mine")
    (taken / "other.json").write_text('{"kind": "price"}')
    (taken / "tuned" / "align.json").write_text('{"kind": "price"}')
    (taken / "change" / "delta.safetensors").write_text("mine")
    (taken / "compared" / "compare.json").write_text("[]")
    everywhere = {"taken/file/a.json": "can't be written", "n" * 256: "can't be written"}
    everywhere |= {f"{'n' * 256}/a.json": "can't be written"}
    files = {"taken": "taken is a folder", "taken/file": "file exists and holds something else", **everywhere}
    files |= {"taken/other.json": "(price, not ", "good.jsonl": "good.jsonl exists and holds something else"}
    folders = {"taken/file": "file is a file; name a folder", **everywhere}
    cases = [([*start, out], says) for start in WRITE_A_FILE.values() for out, says in files.items()]
    cases += [([*start, out], says) for start in WRITE_A_FOLDER.values() for out, says in folders.items()]
    cases += [
        ([*WRITE_A_FILE["score"], "taken/scores.json"], "scores.json.safetensors exists and holds something else"),
        ([*WRITE_A_FILE["score"], "taken/new.safetensors"], "ends in .json"),
        ([*WRITE_A_FOLDER["align"], "taken/tuned"], "align.json exists and holds something else (price,"),
        ([*WRITE_A_FOLDER["align"], "taken/change"], "delta.safetensors exists and holds something else"),
        ([*WRITE_A_FOLDER["compare"], "taken/compared"], "compare.json exists and holds something else"),
        ([*WRITE_A_FOLDER["export"], "taken/tuned"], "tuned is not empty"),
    ]
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for (asked, says), (status, out, err) in zip(cases, call(*(asked for asked, _ in cases), cwd=place), strict=True):
        assert status == 1, (asked, err)
        assert out == "", (asked, out)
        assert err.startswith("error: "), (asked, err)
        assert len(err.splitlines()) == 1, (asked, err)
        assert says in err, (asked, err)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_result_that_cannot_be_written_is_still_printed(place):
    good = ["tiny", "--data", "good.jsonl"]
    [(status, _, err)] = call(["score", *good, "--out", "kept.json"], cwd=place)
    assert status == 0, err
    cases = [
        ["decide", *good],
        ["decide", *good, "--json"],
        ["decide", *good, "--by", "generation"],
        ["score", *good],
        ["score", *good, "--json"],
        ["heads", "kept.json", "--top", "5"],
        ["ablate", *good, "--heads", "inside.json", "--controls", "1"],
        ["patch", *good, "--pairs", "order"],
    ]
    printed = call(*cases, cwd=place)
    failed = call(*([*asked, "--out", "full.json"] for asked in cases), cwd=place, largest=200)
    for asked, whole, (status, out, err) in zip(cases, printed, failed, strict=True):
        assert (whole[0], status) == (0, 1), (asked, whole, err)
        assert out == whole[1] != "", asked
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert errors == [err.splitlines()[-1]], (asked, err)
        assert "full.json" in errors[0], (asked, err)
        assert "can't be written (File too large)" in errors[0], (asked, err)
    assert not list(place.glob("*full*"))


def test_a_result_is_written_again_over_its_own_kind(place):
    good = ["tiny", "--data", "good.jsonl"]
    cases = [
        ["decide", *good, "--out", "again/decide.json"],
        ["decide", *good, "--by", "generation", "--out", "again/answers.csv"],
        ["score", *good, "--out", "again/scores.json"],
        ["heads", "again/scores.json", "--out", "again/heads.json", "--pasta", "again/pasta.json"],
        ["heads", "again/scores.json", "--out", "again/heads.csv"],
        ["heads", "again/scores.json", "--out", "again/heads.npy", "--pairs", "again/pairs.json"],
        ["ablate", *good, "--heads", "inside.json", "--controls", "0", "--out", "again/effect.json"],
        ["patch", *good, "--pairs", "order", "--out", "again/patch.json"],
        ["report", "again", "--out", "again/page.html"],
    ]
    for asked, (status, _, err) in zip(cases * 2, call(*cases * 2, cwd=place), strict=True):
        assert status == 0, (asked, err)


def test_a_list_of_heads_says_its_side_and_how_many_there_are(tmp_path, capsys):
    one = np.arange(-2.0, 6.0).reshape(2, 4)
    one[1, 3] = np.nan
    intervals = {by: np.stack([one, one]) for by in ("values", "polarity", "recency")}
    scores = HeadScores(dict.fromkeys(intervals, one), intervals, RunInfo("m", "d", 1, ("yes_no", "no_yes")))
    for toward, top, title in (("no", 4, "toward No"), ("yes", 2, "toward Yes"), ("bias", 6, "toward either")):
        print_scores(scores, top, toward)
        says = f"top {top} heads by values, {title} (NAS, nats, summed over queries)"
        assert says in capsys.readouterr().out.splitlines()
    scores.save(tmp_path / "scores.json")
    [(status, out, err)] = call(
        ["heads", "scores.json", "--top", "3", "--toward", "yes", "--out", "h.csv"], cwd=tmp_path
    )
    assert status == 0, err
    assert [line.split()[1] for line in out.splitlines()[1:]] == ["0.0", "0.1"]
    assert "2 of 3 heads asked: the model has 8 heads, 1 of which is not measured, 5 of which are not toward Yes" in err
    kept = HeadList.load(tmp_path / "h.csv")
    assert (kept.scores, kept.ranked_by) == ((-2.0, -1.0), "values, toward Yes")
    [(status, _, err)] = call(["heads", "scores.json", "--by", "recency", "--toward", "yes"], cwd=tmp_path)
    assert status == 1
    assert "'recency' doesn't tell No from Yes" in err


RUN_A_MODEL = ("decide", "score", "ablate", "patch", "align", "compare", "doctor", "demo")


def test_help_and_module_entry():
    done = subprocess.run([sys.executable, "-m", "nasa_interp", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for command in (*RUN_A_MODEL, "heads", "export", "report", "task"):
        assert command in done.stdout
    for status, out, _ in call(*([name, "--help"] for name in RUN_A_MODEL)):
        assert status == 0
        for option in ("--json", "--seed", "--device", "--dtype", "--limit"):
            assert option in out


def test_the_demo_writes_its_run_folder(tmp_path):
    [(status, out, err)] = call(["demo", "--limit", "8", "--out", "run"], cwd=tmp_path)
    assert status == 0, err
    assert "Negative bias" in out
    assert "top 10 heads by polarity" in out
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"decisions.json", "scores.json", "scores.json.safetensors", "heads_polarity.csv", "demo.json"} <= written
    assert {"decisions.html", "heatmap_values.html", "heatmap_polarity.html", "effect.json", "report.html"} <= written
    stages = set(json.loads((tmp_path / "run" / "demo.json").read_text())["seconds"])
    assert stages >= {"load", "bias", "heads", "cause", "cure", "report"}


def test_interrupting_keeps_what_is_finished(tmp_path):
    command = [sys.executable, "-m", "nasa_interp", "demo", "--limit", "16"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    run = tmp_path / "runs" / "demo"
    deadline = time.monotonic() + 300
    while not (run / "decisions.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted; what was finished is kept" in err
    assert "Traceback" not in err
    assert json.loads((run / "decisions.json").read_text())["kind"] == "binary_report"
    assert not (run / "demo.json").exists()
    assert not list(run.glob(".*"))


def test_weights_stay_on_disk_under_a_limit(place):
    asked = ["decide", "tiny", "--data", "good.jsonl", "--json", "--dtype", "float32"]
    whole, limited, alone, wrong, apart = call(
        asked,
        [*asked, "--device", "auto", "--max-memory", "cpu=0", "--offload-folder", "off", "--out", "on_disk.json"],
        ["align", "tiny", "--heads", "inside.json", "--max-memory", "cpu=0", "--out", "aligned"],
        [*asked, "--max-memory", "cpu:0"],
        [*asked, "--device", "cpu", "--max-memory", "cpu=0"],
        cwd=place,
    )
    assert (whole[0], limited[0]) == (0, 0), limited[2]
    assert limited[1] == whole[1]
    assert "weights lie outside the memory that computes" in (place / "on_disk.json").read_text()
    assert alone[0] == 1
    assert "tuning needs all weights of tiny in memory" in alone[2]
    assert wrong[0] == 2
    assert "'cpu:0' is not DEVICE=SIZE" in wrong[2]
    assert apart[0] == 1
    assert "device 'cpu' and max_memory contradict each other" in apart[2]


def test_the_console_script_bounds_what_kernels_are_kept(monkeypatch):
    first, second = running.KERNEL_CACHES
    monkeypatch.setenv(first, "7")
    monkeypatch.setenv(second, "")
    monkeypatch.delenv(second)
    monkeypatch.setattr(running, "main", lambda: 0)
    with pytest.raises(SystemExit):
        running.entry()
    assert (os.environ[first], os.environ[second]) == ("7", running.KERNELS)
