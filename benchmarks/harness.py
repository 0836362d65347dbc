"""Does lm-evaluation-harness, run for real, decide every question as we do? The embedded model as it is and tuned.

make harness                                            # once: an environment with lm-evaluation-harness in it
python benchmarks/harness.py --lm-eval .venv-harness/bin/lm_eval                    # all of #val
python benchmarks/harness.py --lm-eval PROGRAM --questions 64 --steps 16 --heads LIST.json  # as recorded
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

import nasa_interp as ni
from nasa_interp.deltas import export
from nasa_interp.harness import HarnessTask, write_task
from nasa_interp.models import Model
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


def compare(program: str, task: HarnessTask, folder: Path, model: Model, form: str, questions: Any) -> dict[str, Any]:
    """Both programs' decisions on the same questions."""
    report = ni.decide(model, questions, style=FORMS[form], progress=False)
    rows = zip(report.questions, report.order, report.logit_differences, strict=True)
    ours = {(q.id, order): float(d) for q, order, d in rows}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm-eval", required=True, help="the program lm_eval")
    parser.add_argument("--questions", type=int, help="of builtin:verify#val; all by default")
    parser.add_argument("--steps", type=int, default=24, help="of the tuning")
    parser.add_argument("--heads", type=Path, help="a head list to tune; the top ten by polarity by default")
    parser.add_argument("--out", type=Path, default=HERE / "harness.json")
    given = parser.parse_args()
    model, questions = ni.load_model("demo"), ni.load_questions("builtin:verify#val", given.questions)
    heads = ni.HeadList.load(given.heads) if given.heads else ni.score_heads(model, "builtin:verify#probe", limit=64)
    heads = heads if given.heads else heads.top(10, by="polarity")
    recipe = ni.Recipe(steps=given.steps, probe_questions=32, val_questions=32)
    tuned = ni.align_heads(model, heads, probe="builtin:verify#probe", val="builtin:verify#val", recipe=recipe)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        tasks = {form: write_task(model, questions, Path(place) / form, style=FORMS[form]) for form in FORMS}
        for name, delta in (("base", None), ("cured", tuned.delta)):
            folder = export(model, delta, Path(place) / name)
            loaded = ni.load_model(folder)
            for form, task in tasks.items():
                rows.append(compare(given.lm_eval, task, folder, loaded, form, questions))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                write_json(given.out, {"questions": len(questions), "rows": rows, "versions": library_versions()})


if __name__ == "__main__":
    main()
