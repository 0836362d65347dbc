"""What alignment must hold: a local step beside one through the whole model, and tuned heads beside their baselines.

python benchmarks/alignment.py                         # both parts; the comparison takes more than an hour on two cores
python benchmarks/alignment.py --parts local           # the ratio of a local step to one through the whole model
python benchmarks/alignment.py --parts compare --limit 96 --random 2 --seeds 1
python benchmarks/alignment.py --parts compare --limit 400 --without 400   # as recorded
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nasa_interp as ni
from nasa_interp.alignment.trainer import Trainer
from nasa_interp.alignment.tuned import TunedSlices
from nasa_interp.attention import Spans, instrumented
from nasa_interp.heads import HeadList
from nasa_interp.models import Model
from nasa_interp.models.tunable import tunable_slices
from nasa_interp.objectives import NegativeAttention, Step
from nasa_interp.prompts import PromptBatch
from nasa_interp.questions import QuestionList
from nasa_interp.scoring.formula import negative_attention_score

PROBE, VAL, TEST = (f"builtin:verify#{split}" for split in ("probe", "val", "test"))


def whole_nas(model: Model, prompts: PromptBatch, layer: int, index: int) -> torch.Tensor:
    """The head's NAS on every prompt by a pass through the whole model, in the graph."""
    start = int(prompts.first_query.min())
    spans = Spans(prompts.yes_span, prompts.no_span)
    with instrumented(model.hf, spans=spans, first_query=start) as recording:
        model.hf(prompts.tokens, attention_mask=prompts.mask.long(), use_cache=False, logits_to_keep=1)
    reading, queries = recording.readings[layer], torch.arange(start, prompts.tokens.shape[1])
    counted = (queries >= prompts.first_query[:, None]) & (queries <= prompts.last_pos[:, None])
    return negative_attention_score(reading.log_yes[:, index], reading.log_no[:, index], counted)


def benchmark_local(model: Model, heads: HeadList, n: int, runs: int) -> list[dict[str, Any]]:
    """Seconds of a step toward smaller NAS, local and through the whole model, and whether the gradients agree."""
    questions = ni.load_questions(PROBE, n)
    asked = resolve_prompts(model, questions, "both", None)
    recipe = ni.Recipe(objective=NegativeAttention(keep_mass=0))
    trainer = Trainer(model, asked, sorted({head.layer for head in heads}), recipe)
    rows, found = np.argsort(-trainer.lengths.numpy()).tolist(), []
    for head in heads:
        tuned, one = TunedSlices(model, tunable_slices(model, [head])), HeadList((head,))
        seconds: dict[str, list[float]] = {"local": [], "whole model": []}
        gradients = {}
        for _ in range(runs):
            for side, times in seconds.items():
                start = time.perf_counter()
                with torch.enable_grad(), tuned.inserted():
                    if side == "local":
                        step = trainer.see(one, rows, trainer.mass_before(one))
                    else:
                        nas = {b.order: whole_nas(model, b, head.layer, head.index)[:, None] for b in asked}
                        still = {order: torch.zeros_like(each) for order, each in nas.items()}
                        step = Step(asked.batches[0].labels, trainer.wording, {}, {}, {}, {}, {}, nas, still, still)
                    gradients[side] = torch.autograd.grad(recipe.objective(step), tuned.values)[0]
                times.append(time.perf_counter() - start)
        apart = float((gradients["local"] - gradients["whole model"]).norm() / gradients["whole model"].norm())
        ratio = statistics.median(a / b for a, b in zip(seconds["whole model"], seconds["local"], strict=True))
        found.append({"head": str(head), "ratio": ratio, "gradients_apart": apart, "seconds": seconds})
        print(f"  {head}: {ratio:.1f} times as fast, gradients {apart:.1e} apart", file=sys.stderr)
    return found


def test_questions(without: int) -> QuestionList:
    """The test questions, but for those that `limit=without` draws: an earlier record may have asked them."""
    asked = {question.id for question in ni.load_questions(TEST, without)} if without else set()
    rest = (question for question in ni.load_questions(TEST) if question.id not in asked)
    return QuestionList(rest, f"{TEST} without the first {without} drawn" if without else TEST)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=["local", "compare"], choices=["local", "compare"])
    parser.add_argument("--heads", type=Path, help="a head list; the top 10 by polarity from layer 10 on without it")
    parser.add_argument("--prompts", type=int, default=16, help="questions in a step of the local part")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--random", type=int, default=10, help="random layer-matched head sets")
    parser.add_argument("--limit", type=int, help="test questions; all without it")
    parser.add_argument("--without", type=int, default=0, help="leave out as many test questions, asked before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where finished methods are kept, so that a killed run goes on")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    model = ni.load_model("demo")
    if options.heads is None:
        heads = ni.score_heads(model, PROBE, limit=320).top(10, "polarity", from_layer=model.n_layers // 3)
    else:
        heads = HeadList.load(options.heads)
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    if "local" in options.parts:
        rows = benchmark_local(model, heads, options.prompts, options.runs)
        worst = min(row["ratio"] for row in rows)
        print(f"local step, slowest head: {worst:.1f} times as fast as through the whole model (aim 10)")
        result["local"] = {"questions": options.prompts, "aim": 10, "worst": worst, "heads": rows}
    if "compare" in options.parts:
        seeds = tuple(range(options.seeds))
        sides = {"seeds": seeds, "n_random": options.random, "limit": options.limit, "folder": options.folder}
        found = ni.compare_methods(model, heads, PROBE, VAL, test_questions(options.without), **sides)
        print("\n".join((found.text(), "", *found.verdict)))
        apart = found.differences().to_dict(orient="records")
        result["compare"] = {"table": found.to_dataframe().to_dict(orient="records"), "differences": apart}
        result["compare"] |= {
            "summary": found.summary().to_dict(orient="records"),
            "groups_above_chance": list(found.groups),
        }
        result["compare"] |= {"verdict": list(found.verdict), "run": found.run.to_dict()}
    from nasa_interp.run import write_json

    write_json(options.out, result)


if __name__ == "__main__":
    main()
