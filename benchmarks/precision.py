"""Decisions and steps of tuning in bfloat16 beside float32: how much faster, and how far apart.

python benchmarks/precision.py demo
python benchmarks/precision.py .second-model/gemma-3-270m.gguf
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nasa_interp as ni
from nasa_interp.alignment.setting import Setting
from nasa_interp.alignment.trainer import Trainer
from nasa_interp.alignment.tuned import TunedSlices
from nasa_interp.models import Model
from nasa_interp.run import write_json


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it gave."""
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def decisions(model: Model, n: int, runs: int) -> dict[str, Any]:
    """The same questions decided either way in turn; the report of each, and the distance in d."""
    questions, seconds, reports = ni.load_questions("builtin:verify#val", n), {False: [], True: []}, {}
    for _ in range(runs):
        for mixed in seconds:
            model.mixed = mixed
            took, reports[mixed] = timed(lambda: ni.decide(model, questions, draws=50, progress=False))
            seconds[mixed].append(took)
    model.mixed = False
    exact, rounded = reports[False], reports[True]
    off = np.abs(rounded.logit_differences - exact.logit_differences)
    answers = (rounded.logit_differences < 0) != (exact.logit_differences < 0)
    return {
        "seconds": {"float32": seconds[False], "mixed": seconds[True]},
        "times_as_fast": statistics.median(seconds[False]) / statistics.median(seconds[True]),
        "d": {"spread": float(exact.logit_differences.std()), "mean_off": float(off.mean()), "off": float(off.max())},
        "other_answers": int(answers.sum()),
        "answers": len(answers),
        "imbalance": [exact.imbalance, rounded.imbalance],
        "auc": [exact.auc, rounded.auc],
    }


def steps(model: Model, heads: ni.HeadList, runs: int) -> dict[str, Any]:
    """Steps of the default recipe from the same weights, either way."""
    splits = [ni.load_questions(f"builtin:verify#{split}") for split in ("probe", "val")]
    seconds, gradients = {}, {}
    for mixed in (False, True):
        recipe = ni.Recipe(mixed_precision=mixed, val_questions=32)
        setting = Setting.of(model, heads, *splits, recipe, ni.Limits(), None, 0)
        tuned = TunedSlices(setting.model, setting.slices)
        trainer = Trainer(setting.model, setting.probe, sorted({h.layer for h in heads}), setting.recipe)
        taken = trainer.steps(tuned, np.random.default_rng(0), heads)
        next(taken)
        gradients[mixed] = torch.cat([value.grad.flatten() for value in tuned.values if value.grad is not None])
        seconds[mixed] = [timed(lambda taken=taken: next(taken))[0] for _ in range(runs)]
    return {
        "seconds": {"float32": seconds[False], "mixed": seconds[True]},
        "times_as_fast": statistics.median(seconds[False]) / statistics.median(seconds[True]),
        "cosine_of_first_gradients": float(torch.cosine_similarity(gradients[False], gradients[True], dim=0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--questions", type=int, default=96)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = ni.load_model(options.model)
    heads = ni.score_heads(model, "builtin:verify#probe", limit=48, progress=False).top(10, by="polarity")
    found = {"threads": options.threads, "decide": decisions(model, options.questions, options.runs)}
    found["step"] = steps(model, heads, options.runs)
    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    write_json(options.out, kept | {Path(options.model).stem: found})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
