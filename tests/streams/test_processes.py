"""Several processes, really started by torchrun: the numbers of one, disjoint work, and what a lost one leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import families
import pyarrow.parquet as pq
import pytest

import nasa_interp as ni

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "nasa_interp"]
ALONE = [sys.executable, "-m", "nasa_interp"]
FOLDER = str(Path(ni.__file__).parents[1])
# What one test's two processes may take on a busy machine; a run that hangs is ended.
PATIENCE = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model in a folder, as several processes load it."""
    folder = tmp_path_factory.mktemp("model")
    families.tiny_model("llama").save_pretrained(folder)
    families.tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of 1,600 questions, seven parts."""
    path = tmp_path_factory.mktemp("data") / "many.jsonl"
    some = ni.load_questions("builtin:verify#val")[:400]
    rows = [
        {
            "question": f"{i}. {q.question}",
            "label": q.label,
            "id": f"{q.id}-{i}",
            "group": q.group,
            "pair": f"{q.pair}-{i}",
        }
        for i in range(4)
        for q in some
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def started(command, *arguments):
    # Processes of one thread each give the same numbers, however many they are.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": FOLDER}
    return subprocess.Popen(
        [*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process):
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def abouts(folder):
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("part-*.json"))]


def test_two_processes_write_the_scores_of_one(model, data, tmp_path):
    for name, command in (("one", ALONE), ("two", LAUNCHER)):
        out = ("--parts", str(tmp_path / name), "--out", str(tmp_path / f"{name}.json"), "--json")
        status, printed, err = ended(started(command, "score", model, "--data", data, *out))
        assert status == 0, err
        assert len(json.loads(printed)) == 8  # printed once: a row a head
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert {key: one[key] for key in one if key != "run"} == {key: two[key] for key in two if key != "run"}
    shared = abouts(tmp_path / "two")
    assert {part["processes"] for part in shared} == {2}
    ids = {
        rank: {
            name
            for number, part in enumerate(shared)
            if part["process"] == rank
            for name in pq.read_table(tmp_path / "two" / f"part-{number:06}.parquet", columns=["id"])["id"].to_pylist()
        }
        for rank in (0, 1)
    }
    assert ids[0]
    assert ids[1]
    assert not ids[0] & ids[1]
    assert len(ids[0] | ids[1]) == 1600


def test_a_lost_process_ends_the_run_with_one_line_and_loses_no_part(model, data, tmp_path):
    arguments = ("decide", model, "--data", data, "--parts", str(tmp_path))
    run = started(LAUNCHER, *arguments)
    while not list(tmp_path.glob("part-*.json")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(run.pid)], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    status, _, err = ended(run)
    assert status != 0
    told = [line for line in err.replace("\r", "\n").splitlines() if "another was lost" in line]
    assert len(told) == 1, err
    assert f"finished parts lie in {tmp_path}: start the same command again" in told[0]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*.json")}
    assert 0 < len(before) < 7
    status, _, err = ended(started(LAUNCHER, *arguments))
    assert status == 0, err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(abouts(tmp_path)) == 7


def test_processes_that_would_all_do_the_same_are_refused(model, data):
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "2", "PYTHONPATH": FOLDER}
    for command, told in (
        (("decide", model, "--data", data), "2 processes would all do the same"),
        (("demo", "--quick"), "2 processes would all do the same"),
    ):
        run = subprocess.run([*ALONE, *command], env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert run.returncode == 1
        assert told in run.stderr
    environment["RANK"] = "2"
    run = subprocess.run(
        [*ALONE, "decide", model, "--data", data], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.returncode == 1
    assert "RANK=2, WORLD_SIZE=2 don't say which process this is" in run.stderr
