"""What stands in the findings about a model's bias, its heads and its causes, measured on any model in one go.

python benchmarks/causes.py .second-model/gemma-3-270m.gguf --strategyqa PATH

Rankings and everything that is chosen come from #probe and #val of builtin:verify; the test split is asked of the
model as it is, and once without the heads that won. The numbers lie in causes_MODEL.json beside this file, the contest
of rankings and its confirmation in figures/contest_MODEL.json and figures/confirmation_MODEL.json.
"""

import argparse
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nasa_interp as ni
from nasa_interp.heads import Side
from nasa_interp.models import Model
from nasa_interp.patching import patch_data
from nasa_interp.questions import QuestionList
from nasa_interp.rankings import RankingContest, confirm, ranking_contest
from nasa_interp.run import write_json

PROBE, VAL, TEST = (f"builtin:verify#{split}" for split in ("probe", "val", "test"))
# Questions of each data set whose leading heads are compared.
EACH = 40
FIGURES = Path(__file__).parents[1] / "figures"


def bias(model: Model) -> dict[str, Any]:
    """The test split as the model is, and what it can sort on the validation split."""
    report, sorts = (ni.decide(model, data, progress=False) for data in (TEST, VAL))
    asked: dict[str, Any] = {
        "questions": report.run.n_questions,
        "verdict": report.verdict,
        "warnings": list(report.warnings),
    }
    for order, e in report.orders.items():
        asked[order] = {"imbalance": e.imbalance, "recall": e.recall, "mean_d": e.mean_logit_difference, "auc": e.auc}
    return asked | {
        "auc_on_val": {group: {o: e.auc for o, e in cells.items()} for group, cells in sorts.cells.items()},
        "answer_mass_on_val": {group: e.answer_mass for group, e in sorts.groups.items()},
    }


def scores_by_data(model: Model, strategyqa: Path) -> dict[str, ni.HeadScores]:
    """Scores on `EACH` questions of every group of #probe, and of StrategyQA."""
    probe = ni.load_questions(PROBE)
    data = {g: QuestionList([q for q in probe if q.group == g], g) for g in dict.fromkeys(q.group for q in probe)}
    data["StrategyQA"] = ni.load_questions(f"strategyqa:{strategyqa}")
    return {name: ni.score_heads(model, each, limit=EACH, progress=False) for name, each in data.items()}


def overlap(scores: dict[str, ni.HeadScores], toward: Side) -> dict[str, Any]:
    """How many of ten leading heads of this side every two data sets share."""
    pairs = [ni.scoring.rank_overlap(a, b, 10, "polarity", toward) for a, b in combinations(scores.values(), 2)]
    shared = [len(pair.shared) for pair in pairs]
    tops = {name: [str(h) for h in each.top(10, "polarity", toward=toward)] for name, each in scores.items()}
    return {
        "questions_each": EACH,
        "toward": toward,
        "pairs": len(pairs),
        "shared_mean": float(np.mean(shared)),
        "shared_least": min(shared),
        "expected": pairs[0].expected,
        "beyond_chance": sum(pair.p < 0.05 / len(pairs) for pair in pairs),
        "in_every_top_ten": sorted(set.intersection(*map(set, tops.values()))),
        "tops": tops,
    }


def contest(model: Model, strategyqa: Path) -> RankingContest:
    """All rankings on 128 probe questions, the exact sweep on 32; judged on #val and StrategyQA's dev set."""
    asked = ni.load_questions(f"strategyqa:{strategyqa}", 64)
    judged = [ni.load_questions(VAL, 96), QuestionList(asked, f"strategyqa:{strategyqa.name}")]
    return ranking_contest(model, PROBE, judged, probe_limit=128, sweep_limit=32, n_random=3)


def patched(model: Model) -> dict[str, Any]:
    """Who carries the truth, and who the bias: every head alone, in the order Yes-No."""
    found: dict[str, Any] = {}
    sorts = ("sentiment", "stated_fact", "same_word", "presence")
    data = QuestionList([q for q in ni.load_questions(VAL) if q.group in sorts], f"{VAL} ({', '.join(sorts)})")
    rankings = {}
    for kind in ("question", "neutral"):
        single = patch_data(model, data, None, kind, "yes_no", limit=48, progress=False).singles["yes_no"]
        rows = single.largest(10).filter(["head", "effect", "effect_low", "effect_high", "recovered"])
        found[kind] = {
            "pairs": len(single.clean),
            "clean": float(single.clean.mean()),
            "corrupted": float(single.corrupted.mean()),
            "notes": list(single.run.notes),
            "largest": rows.to_dict(orient="records"),
        }
        rankings[kind] = single.effect
    found["correlation"] = float(np.corrcoef(rankings["question"], rankings["neutral"])[0, 1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--strategyqa", type=Path, required=True, help="its dev set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sets", type=int, default=99, help="random sets that the winning heads are confirmed against")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, name, start = ni.load_model(options.model), Path(options.model).stem, time.perf_counter()
    out = Path(__file__).with_name(f"causes_{name}.json")
    result: dict[str, Any] = {"model": name, "hash": model.weights_hash(), "bias": bias(model)}
    report = ni.decide(model, PROBE, limit=96, progress=False)
    sides: dict[Side, None] = {"no": None, report.toward: None}
    scores = scores_by_data(model, options.strategyqa)
    result["overlap"] = [overlap(scores, side) for side in sides]
    result["patching"] = patched(model)
    write_json(out, result)
    held = contest(model, options.strategyqa)
    held.save(FIGURES / f"contest_{name}.json")
    sure = confirm(model, held.rankings[held.winner().ranking][:10], TEST, options.sets, limit=64)
    sure.save(FIGURES / f"confirmation_{name}.json")
    write_json(out, result | {"minutes": (time.perf_counter() - start) / 60})
    print(held.summary().round(3).to_string(index=False), sure, sep="\n")


if __name__ == "__main__":
    main()
