"""The paper's five data sets and the built-in one in ten forms: where does a model's bias hold, and where does it turn?

python benchmarks/forms.py demo --data PATH/TO/DATA      # hours on two cores; finished cells lie in runs/forms and stay

PATH/TO/DATA holds gsm8k/test.jsonl, math/test500.jsonl, musique/dev_sample.jsonl, ar_lsat/AR_DevelopmentData.json and
strategyqa/dev.json. The result goes to forms_MODEL.json (the matrix), forms_MODEL_long.json (MuSiQue with all of its 20
paragraphs), forms_MODEL_known.json (all of MATH by what the model knows, as of 60 questions it knows too
few) and forms_MODEL_settling.json (how soon the leading heads settle) beside this file; figures to figures/.
"""

import argparse
import os
import time
from pathlib import Path

import pandas as pd
import torch

import nasa_interp as ni
from nasa_interp.figures import form_matrix_heatmap, save_figure, settling_curve
from nasa_interp.models import Model
from nasa_interp.results import write_result
from nasa_interp.scoring import score_heads
from nasa_interp.survey import FormMatrix, form_matrix, settling

MUSIQUE = "musique:musique/dev_sample.jsonl"
DATA = (
    "builtin:verify#test", "strategyqa:strategyqa/dev.json", "gsm8k:gsm8k/test.jsonl", "math:math/test500.jsonl",
    MUSIQUE, f"{MUSIQUE}#supporting", "ar_lsat:ar_lsat/AR_DevelopmentData.json",
)  # fmt: skip
FORMS = (
    "yes-no", "true-false", "correct-incorrect", "meaning", "reversed", "after", "unsure", "few-shot", "plain", "think",
)  # fmt: skip
MATH = DATA[3]
PARTS = ("whole", "long", "known", "settling")
LONG, LONG_FORMS = f"{MUSIQUE}#all", ("yes-no",)
# Thinking takes seconds a question, and twenty paragraphs some 2,400 tokens.
FEW = 24
HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument(
        "--known", type=int, default=4, help="drawn answers to each open question, besides the greedy one"
    )
    parser.add_argument("--dtype", default="mixed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/forms"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name, start = Path(options.model).stem, time.perf_counter()
    model, folder = ni.load_model(options.model, dtype=options.dtype), options.folder.resolve() / name
    # So that results name the data by what they are, not by where they lie.
    os.chdir(options.data)
    shared = {"limit": options.limit, "folder": folder}
    if "whole" in options.parts:
        found = form_matrix(model, DATA, FORMS, known=options.known, limits={"think": FEW}, **shared)
        keep(found, f"forms_{name}")
        print("\n".join(found.verdict))
    if "long" in options.parts:
        found = form_matrix(model, [MUSIQUE, LONG], LONG_FORMS, limits={LONG: FEW}, **shared)
        found.save(HERE / f"forms_{name}_long.json")
    if "known" in options.parts:
        found = form_matrix(model, [MATH], ["yes-no"], limit=None, known=options.known, heads=False, folder=folder)
        found.save(HERE / f"forms_{name}_known.json")
        print("\n".join(found.verdict))
    if "settling" in options.parts:
        settled(model, f"forms_{name}_settling")
    print(f"{(time.perf_counter() - start) / 3600:.2f} hours")


def keep(matrix: FormMatrix, name: str) -> None:
    """The table and its figures."""
    matrix.save(HERE / f"{name}.json")
    for value in ("imbalance", "auc", "answer_mass", "shared"):
        figure = form_matrix_heatmap(matrix.table, value, run=matrix.run)
        save_figure(figure, HERE.parent / "figures" / f"{name}_{value}.png")


def settled(model: Model, name: str) -> None:
    """How soon the leading heads settle on three data sets."""
    found = []
    for data in ("builtin:verify#probe", *DATA[1:3]):
        scores = score_heads(model, data, limit=256, progress=False)
        found.append(
            settling(scores).assign(name=data.partition(":")[0] if "builtin" not in data else "builtin:verify")
        )
    frame = pd.concat(found)
    write_result(
        HERE / f"{name}.json",
        {"kind": "settling", "rows": frame.to_dict(orient="records"), "run": scores.run.to_dict()},
    )
    run = f"{model.name}, up to 256 questions of each data set, in the first form and both orders"
    save_figure(settling_curve(frame, run=run), HERE.parent / "figures" / f"{name}.png")


if __name__ == "__main__":
    main()
