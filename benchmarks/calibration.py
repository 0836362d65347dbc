"""What a calibration from unlabeled questions is worth: seven wordings, two orders, questions that it never saw.

python benchmarks/calibration.py demo                            # minutes; the decisions are kept in --folder
python benchmarks/calibration.py .second-model/gemma-3-270m.gguf
python benchmarks/calibration.py demo --split val                # what the default offset was chosen on

The model decides every question once in each wording; what is fitted and what is asked is then drawn from those
decisions, again and again, twins never on both sides.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import nasa_interp as ni
from nasa_interp.calibration.fit import offset_of
from nasa_interp.comparison.baselines import best_offset
from nasa_interp.decisions import BinaryReport
from nasa_interp.evaluation import decide_by_generation
from nasa_interp.measures import measure
from nasa_interp.prompts import ORDERS
from nasa_interp.run import write_json

WORDINGS = {
    "the package's": ni.PromptStyle(),
    "one word": ni.PromptStyle("Read what follows and decide. Reply with one word, {first} or {second}."),
    "decide": ni.PromptStyle("Decide whether the following is right and say only {first} or {second}."),
    "short": ni.PromptStyle("Answer with {first} or {second}.", question="{question}"),
    "True/False": ni.PromptStyle(yes="True", no="False"),
    "Correct/Incorrect": ni.PromptStyle(yes="Correct", no="Incorrect"),
    "plain": ni.PromptStyle(kind="plain"),
}
FITTED, REDRAWS = 64, 20
Pick = dict[str, dict[str, float]]


def ask(model: Any, questions: Any, folder: Path) -> dict[str, BinaryReport]:
    """The decisions in each wording; those that lie in the folder are taken from there."""
    reports, texts = {}, [q.question for q in questions]
    for name, style in WORDINGS.items():
        path = folder / f"{name.replace('/', '-').replace(' ', '_')}.json"
        if not path.exists():
            ni.decide(model, questions, style=style).save(path)
        reports[name] = BinaryReport.load(path)
        if [q.question for q in reports[name].questions[: len(texts)]] != texts:
            raise SystemExit(f"{path} is of other questions; name another --folder")
        print(name, reports[name].verdict, file=sys.stderr, flush=True)
    return reports


def pairs_of(report: BinaryReport) -> np.ndarray:
    """The pair of each question of one order."""
    return report.clusters[: len(report.clusters) // 2]


def drawn(pairs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on, whole pairs, and all others."""
    chosen = rng.permutation(np.unique(pairs))[: FITTED // 2]
    inside = np.isin(pairs, chosen)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def at_rate(rows: np.ndarray, label: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """As many of the rows as can be had with this rate of yes."""
    sides = [rng.permutation(rows[label[rows] == side]) for side in (True, False)]
    n = min(len(sides[0]) / rate, len(sides[1]) / (1 - rate))
    return np.concatenate([sides[0][: round(n * rate)], sides[1][: round(n * (1 - rate))]])


Offset = Callable[[np.ndarray, np.ndarray], float]


def offsets(prior: float = 0.5) -> dict[str, Offset]:
    """What may be taken off d, each fitted on d and labels, of which only the last looks at the labels."""
    return {
        "as it is": lambda d, label: 0.0,
        "mean": lambda d, label: float(offset_of(d, np.ones((1, len(d))), prior, "mean")[0]),
        "median": lambda d, label: float(offset_of(d, np.ones((1, len(d))), prior, "quantile")[0]),
        "threshold with labels": lambda d, label: -best_offset(d, label),
    }


def redraw(reports: dict[str, BinaryReport], seed: int, rate: float = 0.5, prior: float = 0.5) -> dict[str, Any]:
    """One draw: for each method the mean |imbalance| and accuracy over wordings and orders, and by kind of question."""
    rng = np.random.default_rng(seed)
    some = next(iter(reports.values()))
    half = len(some.questions) // 2
    label, groups = (
        np.array([q.label for q in some.questions[:half]]),
        np.array([q.group for q in some.questions[:half]]),
    )
    fit, asked = drawn(pairs_of(some), rng)
    if rate != 0.5:
        fit, asked = at_rate(fit, label, rate, rng), at_rate(asked, label, rate, rng)
    found: dict[str, Any] = {}
    for name, offset in offsets(prior).items():
        cells, kinds = [], {g: [] for g in dict.fromkeys(groups)}
        for report in reports.values():
            for part in range(2):
                d = report.logit_differences[part * half : (part + 1) * half]
                moved = d - np.float32(offset(d[fit], label[fit]))
                before, after = (measure(x[asked], label[asked], np.ones(len(asked))) for x in (d, moved))
                assert before.auc == after.auc, "the AUC within an order, wording and pair moved"
                cells.append((abs(after.imbalance), after.accuracy, after.yes_rate))
                for group, values in kinds.items():
                    rows = asked[groups[asked] == group]
                    values.append(float(label[rows].mean() - (moved[rows] < 0).mean()))
        imbalance, accuracy, yes = np.mean(cells, axis=0)
        found[name] = {"imbalance": imbalance, "accuracy": accuracy, "yes_rate": yes, "worst": max(c[0] for c in cells)}
        found[name]["kinds"] = {group: float(np.mean(values)) for group, values in kinds.items()}
    return found | {"asked": len(asked)}


def summary(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Each method over the draws: medians, and how many draws stay within 0.10."""
    told: dict[str, Any] = {"asked": draws[0]["asked"], "redraws": len(draws)}
    for name in offsets():
        rows = [draw[name] for draw in draws]
        imbalances = [row["imbalance"] for row in rows]
        told[name] = {
            "imbalance": statistics.median(imbalances),
            "within_0.10": float(np.mean(np.array(imbalances) <= 0.10)),
            "accuracy": statistics.median(row["accuracy"] for row in rows),
            "yes_rate": statistics.median(row["yes_rate"] for row in rows),
            "kinds": {kind: statistics.median(row["kinds"][kind] for row in rows) for kind in rows[0]["kinds"]},
        }
    return told


def content_free(model: Any, reports: dict[str, BinaryReport]) -> dict[str, float]:
    """Mean |imbalance| and accuracy over all decisions with the offset that content-free texts give."""
    cells = []
    for name, report in reports.items():
        one = ni.calibrate(model, "builtin:content-free", style=WORDINGS[name], draws=5, progress=False)
        cells += [(abs(e.imbalance), e.accuracy) for e in report.calibrated(one).orders.values()]
    return dict(zip(("imbalance", "accuracy"), np.mean(cells, axis=0).tolist(), strict=True))


def generated(model: Any, report: BinaryReport, n: int = 64) -> dict[str, int]:
    """Answers in words with the offset taken off as they begin, beside the calibrated decisions."""
    half = len(report.questions) // 2
    asked = list(report.questions[half - n // 2 : half])
    one = ni.calibrate(model, list(report.questions[:FITTED]), draws=5, progress=False)
    said = decide_by_generation(model, asked, max_new_tokens=4, calibration=one, progress=False).answers
    mine = (ni.decide(model, asked, draws=5, progress=False).calibrated(one).logit_differences < 0).tolist()
    begun = [(a, b) for a, b in zip(said, mine, strict=True) if a is not None]
    return {"answers": len(said), "begin_with_a_candidate": len(begun), "as_by_logits": sum(a == b for a, b in begun)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--questions", type=int, default=288)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/calibration"), help="where decisions are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    model, name = ni.load_model(options.model), Path(options.model).stem
    questions = ni.load_questions(f"builtin:verify#{options.split}", limit=options.questions)
    reports = ask(model, questions, options.folder / name / options.split)
    found: dict[str, Any] = {"questions": len(questions), "wordings": list(reports), "orders": list(ORDERS)}
    found["half yes"] = summary([redraw(reports, seed) for seed in range(REDRAWS)])
    for rate in (0.2, 0.8):
        for prior in (rate, 0.5):
            rows = [redraw(reports, seed, rate, prior) for seed in range(REDRAWS)]
            found[f"{rate:.0%} yes, prior {prior:.0%}"] = summary(rows)
    found["content-free"] = content_free(model, reports)
    found["generation"] = generated(model, reports["the package's"])
    found["run"] = reports["the package's"].run.to_dict()
    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    write_json(options.out, kept | {f"{name} {options.split}": found})
    for case, rows in found.items():
        if isinstance(rows, dict) and "mean" in rows:
            told = (f"{m} {rows[m]['imbalance']:.3f} ({rows[m]['accuracy']:.3f})" for m in offsets())
            print(f"{case}: mean |imbalance| (accuracy): {'; '.join(told)}")
    print("content-free", found["content-free"], "generation", found["generation"])


if __name__ == "__main__":
    main()
