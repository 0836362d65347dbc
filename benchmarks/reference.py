"""What it costs to hold a run to the plain model: 256 questions in both orders, with the check and without it.

python benchmarks/reference.py                  # two threads, five interleaved runs; minutes
python benchmarks/reference.py --data dev.json  # StrategyQA
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import transformers
from scoring import interleaved

import nasa_interp as ni
from nasa_interp.decisions import fused_answers
from nasa_interp.prompts import ORDERS, build_prompts
from nasa_interp.reference import reference_order

BOUND = 0.04


def measure(data: str, limit: int, runs: int) -> dict[str, Any]:
    """Seconds of each run with and without the check of one order, and the check's share of the run without."""
    model = ni.load_model("demo")
    batches = [build_prompts(model, ni.load_questions(data, limit), order) for order in ORDERS]
    checked = reference_order(ORDERS, seed=0)

    def decide(reference: bool) -> None:
        for prompts in batches:
            fused_answers(model, prompts, reference=reference and prompts.order == checked, progress=False)

    decide(True)  # a first pass allocates what later ones find
    seconds, _ = interleaved({"without": lambda: decide(False), "with": lambda: decide(True)}, runs)
    shares = [a / b - 1 for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    share = statistics.median(shares)
    return {"data": data, "questions": limit, "seconds": seconds, "shares": shares, "share": share, "bound": BOUND}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="builtin:verify#probe")
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options.data, options.limit, options.runs)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    options.out.write_text(json.dumps({"machine": {"threads": options.threads, **versions}, **found}, indent=1) + "\n")
    print(f"the check costs {found['share']:.1%} of a run of {options.limit} questions (bound {BOUND:.0%})")


if __name__ == "__main__":
    main()
