"""What it costs to hold a run to the plain model: 256 questions in both orders, with the check and without it.

python benchmarks/reference.py                  # two threads, five interleaved runs; minutes
python benchmarks/reference.py --data dev.json  # StrategyQA
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from scoring import interleaved, ratio

import nasa_interp as ni
from nasa_interp.decisions import fused_answers
from nasa_interp.prompts import ORDERS, build_prompts
from nasa_interp.reference import PlainReference, plain_difference, reference_order

BOUND = 0.04


def measure(data: str, limit: int, runs: int) -> dict[str, Any]:
    """Seconds of each run with and without the check of one order, and what the check adds as a share of the latter."""
    model = ni.load_model("demo")
    batches = [build_prompts(model, ni.load_questions(data, limit), order) for order in ORDERS]
    checked = reference_order(ORDERS, seed=0)

    def decide(reference: bool) -> None:
        for prompts in batches:
            fused_answers(model, prompts, reference=reference and prompts.order == checked, progress=False)

    def passes() -> None:
        prompts = batches[ORDERS.index(checked)]
        for place in PlainReference(model, prompts).waiting:
            plain_difference(model, prompts, place)

    decide(True)  # a first pass allocates what later ones find
    sides = {"without": lambda: decide(False), "with": lambda: decide(True), "its passes alone": passes}
    seconds, _ = interleaved(sides, runs)
    share = ratio(seconds["with"], seconds["without"]) - 1
    alone = ratio(seconds["its passes alone"], seconds["without"])
    return {
        "data": Path(data).name,
        "questions": limit,
        "seconds": seconds,
        "share": share,
        "alone": alone,
        "bound": BOUND,
    }


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
    print(
        f"a run of {options.limit} questions takes {found['share']:+.1%} with the check, whose passes alone take "
        f"{found['alone']:.1%} of it (bound {BOUND:.0%})"
    )


if __name__ == "__main__":
    main()
