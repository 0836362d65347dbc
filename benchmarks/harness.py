"""Do lm-evaluation-harness and inspect_ai, run for real, decide as we do? The embedded model, as it is and tuned.

make harness                                            # once: an environment with both programs in it
python benchmarks/harness.py --programs .venv-harness/bin                           # tunes first: half an hour
python benchmarks/harness.py --programs .venv-harness/bin --delta RUN/delta.safetensors

lm_eval runs the exported folders on all of `builtin:verify#val`, in chat and in plain prompts. inspect_ai asks 64 of
the questions of llama.cpp's server (xllamacpp), which runs the GGUF files; so do we, through `load_server`.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from llama_cpp import llama_server, tuned

import nasa_interp as ni
from nasa_interp.decisions import BinaryReport
from nasa_interp.deltas import export
from nasa_interp.harness import HarnessTask, write_task
from nasa_interp.models import Model
from nasa_interp.models.loading import demo_file
from nasa_interp.run import library_versions, write_json

FORMS = {"chat": ni.PromptStyle(), "plain": ni.PromptStyle(kind="plain")}
HERE = Path(__file__).parent


def harness_differences(program: str, task: HarnessTask, model: Path) -> tuple[dict[tuple[str, str], float], Any]:
    """d of every question and order as lm_eval's samples say, and the numbers of its group."""
    line = shlex.split(task.commands["lm_eval"].replace("MODEL", str(model)))
    out = task.folder / f"out_{model.name}"
    # Started from another folder than the task's, as a user may.
    done = subprocess.run(
        [program, *line[1:], "--output_path", str(out), "--log_samples", "--batch_size", "16"],
        cwd=model,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    found = {}
    for order in task.orders:
        (samples,) = out.rglob(f"samples_{task.name}_{order}_*.jsonl")
        for row in map(json.loads, samples.read_text(encoding="utf-8").splitlines()):
            (yes, _), (no, _) = row["filtered_resps"]
            found[row["doc"]["id"], order] = float(no) - float(yes)
    (numbers,) = out.rglob("results_*.json")
    return found, json.loads(numbers.read_text(encoding="utf-8"))["groups"][task.name]


def differences(report: BinaryReport) -> dict[tuple[str, str], float]:
    """Our d of every question and order."""
    rows = zip(report.questions, report.order, report.logit_differences, strict=True)
    return {(q.id, order): float(d) for q, order, d in rows}


def compare(program: str, task: HarnessTask, folder: Path, model: Model, form: str, questions: Any) -> dict[str, Any]:
    """Both programs' decisions on the same questions."""
    report = ni.decide(model, questions, style=FORMS[form], progress=False)
    ours = differences(report)
    theirs, numbers = harness_differences(program, task, folder)
    apart = [abs(ours[key] - theirs[key]) for key in ours]
    overall = report.overall
    return {
        "form": form,
        "model": folder.name,
        "decisions": len(ours),
        "same": sum((ours[key] < 0) == (theirs[key] < 0) for key in ours),
        "largest_difference_of_d": max(apart),
        "smallest_size_of_d": min(map(abs, ours.values())),
        "accuracy": {"ours": overall.accuracy, "lm_eval": numbers["acc,none"]},
        "yes_rate": {"ours": overall.yes_rate, "lm_eval": numbers["yes_rate,none"]},
    }


def inspect_differences(program: str, task: HarnessTask, address: str) -> dict[tuple[str, str], float | None]:
    """d of every question and order as inspect_ai's log of a served model says; None where it saw neither answer."""
    line = task.commands["inspect_ai, served"].replace("ADDRESS", address).replace("inspect eval", f"{program} eval")
    with tempfile.TemporaryDirectory() as logs:
        done = subprocess.run(
            f"{line} --log-format json --display plain",
            shell=True,
            env={**os.environ, "INSPECT_LOG_DIR": logs},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stderr + done.stdout)
        read = [json.loads(path.read_text(encoding="utf-8")) for path in Path(logs).glob("*.json")]
    return {
        (sample["id"], log["eval"]["task"].removeprefix(f"{task.name}_")): sample["scores"]["decision"]["metadata"][
            "logit_difference"
        ]
        for log in read
        for sample in log["samples"]
    }


def compare_served(program: str, task: HarnessTask, file: Path, name: str, questions: Any) -> dict[str, Any]:
    """inspect_ai's decisions and ours, of one server."""
    with llama_server(file) as address:
        ours = differences(ni.decide(ni.load_server(address), questions, progress=False))
        theirs = inspect_differences(program, task, address)
    seen = {key: value for key, value in theirs.items() if value is not None}
    return {
        "form": "chat, served",
        "model": name,
        "decisions": len(ours),
        "seen": len(seen),
        "same": sum((ours[key] < 0) == (value < 0) for key, value in seen.items()),
        "largest_difference_of_d": max(abs(ours[key] - value) for key, value in seen.items()),
        "yes_rate": {
            "ours": sum(value < 0 for value in ours.values()) / len(ours),
            "inspect_ai": sum(value < 0 for value in seen.values()) / len(seen),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True, help="the folder that holds lm_eval and inspect")
    parser.add_argument("--questions", type=int, help="of builtin:verify#val for lm_eval; all by default")
    parser.add_argument("--delta", type=Path, help="a change that was tuned before")
    parser.add_argument("--out", type=Path, default=HERE / "harness.json")
    given = parser.parse_args()
    programs = given.programs.resolve()
    model, questions = ni.load_model("demo"), ni.load_questions("builtin:verify#val", given.questions)
    few, rows = ni.load_questions("builtin:verify#val", min(64, len(questions))), []
    cure = tuned(model, 0) if given.delta is None else ni.HeadDelta.load(given.delta)
    about = {"questions": len(questions), "heads": [str(head) for head in cure.heads], "rows": rows}

    def found(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        write_json(given.out, {**about, "versions": library_versions()})

    with tempfile.TemporaryDirectory() as place:
        tasks = {form: write_task(model, questions, Path(place) / form, style=FORMS[form]) for form in FORMS}
        served = write_task(model, few, Path(place) / "served")
        gguf = {"base": demo_file(), "cured": export(model, cure, Path(place) / "gguf", "gguf") / "model.gguf"}
        for name, delta in (("base", None), ("cured", cure)):
            found(compare_served(str(programs / "inspect"), served, gguf[name], name, few))
            folder = export(model, delta, Path(place) / name)
            loaded = ni.load_model(folder)
            for form, task in tasks.items():
                found(compare(str(programs / "lm_eval"), task, folder, loaded, form, questions))


if __name__ == "__main__":
    main()
