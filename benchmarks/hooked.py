"""What hooks cost: the embedded model through a bridge, and through hooks, beside its plain view, each verb in turns.

python benchmarks/hooked.py                          # two runs of each; a quarter of an hour
python benchmarks/hooked.py --verbs align --runs 1   # one verb alone; the others' numbers stay in the JSON
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nasa_interp as ni
from nasa_interp.alignment import Limits
from nasa_interp.interventions import Knockout, Mean, Swap, Zero, ablation_effect
from nasa_interp.models import Model
from nasa_interp.patching import patch_heads
from nasa_interp.prompts.pairs import instruction_pairs

SPLITS = "builtin:verify#probe", "builtin:verify#val"
# What 8 steps give is compared, whatever they are worth.
OPEN = Limits(imbalance=0.0, auc=1.0, answer_mass=1.0, perplexity=10.0)
HEADS = ["17.7", "22.8", "21.6", "21.7", "18.4", "10.1", "12.3", "15.5", "8.0", "20.2"]


def sides() -> dict[str, Model]:
    """One set of weights three times: plain, handed over as a bridge, and as a bridge with a hook of the user's."""
    plain, bridge, own = (ni.load_model("demo") for _ in range(3))
    own.bridge.add_hook("blocks.0.hook_resid_pre", lambda value, hook: value)
    return {"plain": plain, "bridge": ni.load_model(bridge.bridge), "hooks": ni.load_model(own.bridge)}


def verbs(n: int) -> dict[str, Callable[[Model], Any]]:
    """What is timed, each with the numbers that the sides are held to."""
    data = ni.load_questions("builtin:verify#val", limit=n)
    few = data[: max(1, n // 2)]
    quiet: dict[str, Any] = {"draws": 5, "progress": False}

    def effect(what: Any) -> Callable[[Model], Any]:
        return lambda m: ablation_effect(m, data, HEADS, what, **quiet).changed.logit_differences

    def tuned(m: Model) -> Any:
        recipe = ni.Recipe(steps=8, check_every=8, probe_questions=64, val_questions=32, mixed_precision=False)
        run = ni.align_heads(m, HEADS, *SPLITS, recipe=recipe, limits=OPEN, progress=False)
        return np.concatenate([(a - b).numpy().ravel() for a, b in zip(run.delta.after, run.delta.before, strict=True)])

    return {
        "decide": lambda m: ni.decide(m, data, **quiet).logit_differences,
        "score": lambda m: ni.score_heads(m, data, **quiet).values,
        "Zero": effect(Zero()),
        "Knockout": effect(Knockout()),
        "Swap": effect(Swap()),
        "Mean": lambda m: effect(Mean.over(m, data, HEADS))(m),
        "align": tuned,
        "patch": lambda m: patch_heads(m, instruction_pairs(m, few, kind="order"), HEADS[:3], **quiet).effect,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--verbs", help="some of them, with commas between")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "answer mass|scored with the hooked engine")
    torch.set_num_threads(options.threads)
    models = sides()
    rows = json.loads(options.out.read_text())["verbs"] if options.verbs and options.out.exists() else {}
    chosen = verbs(options.questions)
    for name in options.verbs.split(",") if options.verbs else chosen:
        run = chosen[name]
        seconds: dict[str, list[float]] = {side: [] for side in models}
        values = {}
        for _ in range(options.runs):
            for side, model in models.items():
                start = time.perf_counter()
                values[side] = np.asarray(run(model), dtype=float)
                seconds[side].append(time.perf_counter() - start)
        plain, row = values["plain"], {"size": float(np.nanmax(np.abs(values["plain"]))), "seconds": seconds}
        for side in ("bridge", "hooks"):
            apart = values[side] - plain
            row[f"{side}_apart"] = float(np.nanmax(np.abs(apart)))
            row[f"{side}_apart_of_size"] = float(np.sqrt(np.nansum(apart**2) / np.nansum(plain**2)))
            row[f"{side}_times"] = statistics.median(
                a / b for a, b in zip(seconds[side], seconds["plain"], strict=True)
            )
        rows[name] = row
        print(f"{name:9} bridge x {row['bridge_times']:.2f}, {row['bridge_apart']:.1e} apart; hooks x "
              f"{row['hooks_times']:.2f}, {row['hooks_apart']:.1e} apart of {row['size']:.2f}")  # fmt: skip
    told = {"threads": options.threads, "questions": options.questions, "verbs": rows}
    options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
