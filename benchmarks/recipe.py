"""The default recipe on a model: what it keeps, what it costs, how long it takes; the test questions are asked once.

python benchmarks/recipe.py demo
python benchmarks/recipe.py .second-model/gemma-3-270m.gguf --seeds 0 1 2
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import nasa_interp as ni
from nasa_interp.decisions import BinaryReport
from nasa_interp.evaluation import TextReference
from nasa_interp.questions import QuestionList
from nasa_interp.run import write_json

# Test questions that the default before this one was asked (docs/findings.md); this one is asked the others.
ASKED_BEFORE = 400
PROBE, VAL, TEST = (f"builtin:verify#{split}" for split in ("probe", "val", "test"))


def measures(report: BinaryReport) -> dict[str, Any]:
    """Imbalance and AUC in each order, with the ends of the imbalance's interval, and the accuracy over both."""
    orders = {
        order: {"imbalance": e.imbalance, "interval": [e.low.imbalance, e.high.imbalance], "auc": e.auc}
        for order, e in report.orders.items()
    }
    return {"accuracy": report.accuracy, **orders}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--unlabeled", action="store_true", help="tune without labels")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, name = ni.load_model(options.model), Path(options.model).stem
    heads = ni.score_heads(model, PROBE, limit=48, progress=False).top(10, by="polarity")
    probe, val = (ni.load_questions(split, unlabeled=options.unlabeled) for split in (PROBE, VAL))
    before_ids = {question.id for question in ni.load_questions(TEST, ASKED_BEFORE)}
    test = QuestionList([q for q in ni.load_questions(TEST) if q.id not in before_ids], f"{TEST} less {ASKED_BEFORE}")
    before = measures(ni.decide(model, test, progress=False))
    text, rows = TextReference.of(model, progress=False), []
    for seed in options.seeds:
        start = time.perf_counter()
        try:
            run = ni.align_heads(model, heads, probe, val, seed=seed, progress=False)
        except ni.NasaInterpError as error:
            rows.append({"seed": seed, "seconds": time.perf_counter() - start, "refused": str(error)})
            print(seed, rows[-1])
            continue
        seconds = time.perf_counter() - start
        with run.delta.applied(model):
            after, ratio = measures(ni.decide(model, test, progress=False)), text.ratio(model)
        (row,) = run.rows
        kept = {key: row[key] for key in ("rate", "steps", "tried")}
        rows.append({"seed": seed, "seconds": seconds, **kept, "test": after, "perplexity_ratio": ratio})
        rows[-1]["val"] = {order: value for order, value in run.tuned.imbalance.items()}
        print(seed, f"{seconds:.0f} s", json.dumps(rows[-1]["test"]), f"perplexity x {ratio:.4f}", flush=True)
    found = {"heads": [str(head) for head in heads], "recipe": ni.Recipe().to_dict(), "before": before, "runs": rows}
    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    labels = " without labels" if options.unlabeled else ""
    write_json(options.out, kept | {f"{name}{labels}": found | {"threads": options.threads, "test": len(test)}})


if __name__ == "__main__":
    main()
