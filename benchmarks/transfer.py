"""The transfer matrix of a model, part by part: a run's cells are joined to those of the runs before.

python benchmarks/transfer.py demo --strategyqa PATH                                # all but random heads; hours
python benchmarks/transfer.py demo --strategyqa PATH --rows "four kinds" --methods "random heads" --random 19
python benchmarks/transfer.py demo --strategyqa PATH --rows "four kinds" --methods nasa --toward yes   # other heads

Finished cells lie in --folder, so that a killed run goes on; the whole lies in transfer_MODEL.json beside this file (of
heads that look at Yes, or at either, in transfer_MODEL_yes.json or _bias.json), its picture in figures/.
"""

import argparse
import time
from pathlib import Path

import torch

import nasa_interp as ni
from nasa_interp.figures import save_figure, transfer_heatmap
from nasa_interp.questions import QuestionList, sample_questions
from nasa_interp.transfer import METHODS, Condition, TransferMatrix, builtin_conditions, transfer_matrix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--strategyqa", type=Path, help="its dev set, asked as one more condition")
    parser.add_argument("--rows", help="some of the conditions that cures are fitted in, with commas between")
    parser.add_argument("--toward", default="no", choices=["no", "yes", "bias"], help="what the heads look at")
    parser.add_argument("--methods", help="some methods, with commas between; by default all but random heads")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--random", type=int, default=3)
    parser.add_argument("--limit", type=int, default=192, help="questions of each condition, 64 of which are set aside")
    parser.add_argument("--dtype", default="mixed", help="float32 asks exactly, and takes twice as long")
    parser.add_argument("--questions", type=int, default=16, help="in a step of tuning; the default recipe takes 32")
    parser.add_argument("--val", type=int, default=128, help="validation questions; the default recipe takes 256")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/transfer"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, name = ni.load_model(options.model, dtype=options.dtype), Path(options.model).stem
    if options.toward != "no":
        name += f"_{options.toward}"
    scores = ni.score_heads(model, "builtin:verify#probe", limit=48, progress=False)
    heads = scores.top(10, by="polarity", toward=options.toward)
    rows, columns = builtin_conditions(options.limit)
    if options.rows:
        rows = [row for row in rows if row.name in options.rows.split(",")]
    if options.strategyqa:
        asked = ni.load_questions(f"strategyqa:{options.strategyqa}")
        columns.append(Condition("StrategyQA", QuestionList(sample_questions(asked, options.limit, 0), asked.name)))
    methods = options.methods.split(",") if options.methods else [m for m in METHODS if m != "random heads"]
    start = time.perf_counter()
    found = transfer_matrix(
        model,
        heads,
        rows,
        columns,
        methods=methods,
        seeds=range(options.seeds),
        n_random=options.random,
        recipe=ni.Recipe(questions=options.questions, val_questions=options.val),
        folder=options.folder / name,
    )
    out = Path(__file__).with_name(f"transfer_{name}.json")
    if out.exists():
        found = TransferMatrix.load(out).joined(found)
    found.save(out)
    picture = Path(__file__).parents[1] / "figures" / f"transfer_{name}.png"
    save_figure(
        transfer_heatmap(found.cells(), run=found.run, title=f"Where a cure of {name} holds"), picture, scale=1.0
    )
    print(f"{(time.perf_counter() - start) / 3600:.2f} hours")
    print(found.summary().round(3).to_string(index=False))
    print(found.verdict)


if __name__ == "__main__":
    main()
