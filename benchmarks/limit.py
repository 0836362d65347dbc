"""How close to the machine's own limit do scoring, deciding, a step of tuning and a sweep come, and where is the rest?

python benchmarks/limit.py demo --data strategyqa:PATH          # minutes, on two idle cores

The limit is the rate at which this machine multiplies matrices of the model's own shapes, measured in the same run
between the verbs. The share of it is what a verb needs to multiply (each prompt's own tokens, the shared prefix once an
order, no pads), divided by that rate and by the time it took.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import nasa_interp as ni
from nasa_interp.alignment import Recipe
from nasa_interp.alignment.trainer import Trainer
from nasa_interp.alignment.tuned import TunedSlices
from nasa_interp.decisions import report_decisions
from nasa_interp.forward import shared_prefix_length
from nasa_interp.interventions import sweep_heads
from nasa_interp.mixed_precision import multiplies_bfloat16
from nasa_interp.models.tunable import tunable_slices
from nasa_interp.prompts import PromptBatch
from nasa_interp.scoring.fused import score_fused
from nasa_interp.session import PromptSet

TOKENS = 1024
# What an operator of PyTorch is for, by words in its name, the first that fits.
KINDS = {
    "matrix products": ("addmm", "mm", "linear"),
    "attention": ("scaled_dot_product", "flash_attention", "softmax", "logsumexp"),
    "copies and casts": ("copy", "cat", "index", "contiguous", "clone", "empty", "fill", "gather", "where", "to"),
    "norms and elementwise": (
        "mul",
        "add",
        "rsqrt",
        "mean",
        "pow",
        "silu",
        "gelu",
        "neg",
        "sub",
        "exp",
        "sigmoid",
        "div",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", default="builtin:verify#val")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--verbs", nargs="+", help="some alone, by the first word of their names; others stay in the file"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = ni.load_model(options.model)
    asked = PromptSet.build(model, ni.load_questions(options.data, options.prompts))
    found = {"model": Path(options.model).stem, "threads": options.threads, "prompts": options.prompts}
    found |= {"data": options.data.partition(":")[0], "verbs": measured(model, asked, options.runs, options.verbs)}
    whole = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.verbs:
        found["verbs"] = whole.get(found["model"], {"verbs": {}})["verbs"] | found["verbs"]
    options.out.write_text(json.dumps({**whole, found["model"]: found}, indent=1) + "\n")
    for name, row in found["verbs"].items():
        print(f"{name}: {row['gflops']:.0f} of {row['limit']:.0f} GFLOP/s, {row['share']:.2f}; {row['where']}")


def measured(model: Any, asked: PromptSet, runs: int, some: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Each verb's share of the limit, median of interleaved runs, and where its time went."""
    verbs = [verb for verb in verbs_of(model, asked) if some is None or verb[0].partition(",")[0] in some]
    limits = {name: [] for name in ("float32", "bfloat16") if name == "float32" or multiplies_bfloat16(model.device)}
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        for name, rates in limits.items():
            rates.append(matmul_rate(model, getattr(torch, name)))
        for name, _, _, run in verbs:
            times[name].append(seconds(run))
    rows = {}
    for name, dtype, flops, run in verbs:
        took, limit = statistics.median(times[name]), statistics.median(limits[dtype])
        rate = flops / took / 1e9
        rows[name] = {
            "seconds": [round(t, 3) for t in times[name]], "dtype": dtype, "gflops": rate, "limit": limit,
            "limits": [round(each, 1) for each in limits[dtype]], "share": rate / limit, "where": where(run),
        }  # fmt: skip
    if "sweep, mixed" in rows:
        exact, mixed = (run().values.ravel() for name, _, _, run in verbs if name.startswith("sweep"))
        shared = len({*np.argsort(exact)[:10]} & {*np.argsort(mixed)[:10]})
        off, largest = np.abs(mixed - exact).max(), np.abs(exact).max()
        told = {"off": float(off), "largest": float(largest), "correlation": float(np.corrcoef(exact, mixed)[0, 1])}
        rows["sweep, mixed"]["beside float32"] = told | {"leading ten shared": shared}
    return rows


def verbs_of(model: Any, asked: PromptSet) -> Iterable[tuple[str, str, float, Callable[[], Any]]]:
    """Name, dtype of the products, what has to be multiplied, and the verb itself."""
    passes = sum(needed(model, prompts) for prompts in asked)
    answers = sum(len(prompts) for prompts in asked) * unembedding(model)
    few = asked.batches[0].select(range(4))
    n_heads = model.n_layers * model.n_heads
    narrow = ni.load_model(model.name, dtype="mixed") if multiplies_bfloat16(model.device) else None
    yield "score", "float32", passes, lambda: [score_fused(model, prompts, progress=False) for prompts in asked]
    yield "decide", "float32", passes + answers, lambda: report_decisions(model, asked, progress=False, model_hash="")
    if narrow:
        run = lambda: report_decisions(narrow, asked, progress=False, model_hash="")  # noqa: E731
        yield "decide, mixed", "bfloat16", passes + answers, run
    yield "step", "float32", *step_of(model, asked, False)
    if narrow:
        yield "step, mixed", "bfloat16", *step_of(model, asked, True)
    # A head alone restarts at its layer: half of the layers on average, for the prompts and for their prefix.
    swept = n_heads * (needed(model, few) / 2 + len(few) * unembedding(model))
    yield "sweep", "float32", swept, lambda: sweep_heads(model, [few], progress=False)
    if narrow:
        yield "sweep, mixed", "bfloat16", swept, lambda: sweep_heads(narrow, [few], progress=False)


def step_of(model: Any, asked: PromptSet, narrow: bool) -> tuple[float, Callable[[], Any]]:
    """One step of the default tuning: forward, and backward through everything but the weights."""
    recipe = Recipe(mixed_precision=narrow, keep_text=0.0)
    heads = ni.heads.HeadList.of([(layer, 0) for layer in range(0, model.n_layers, 3)])
    some = PromptSet.build(model, type(asked.questions)(asked.questions[: recipe.questions], "some"))
    trainer = Trainer(model, some, sorted({head.layer for head in heads}), recipe)
    tuned = TunedSlices(model, tunable_slices(model, heads, recipe.projections, False, share=True))
    rows = list(range(len(some.questions)))
    flops = 2 * sum(needed(model, prompts.select(rows)) + len(rows) * unembedding(model) for prompts in asked)

    def run() -> None:
        with torch.enable_grad(), tuned.inserted():
            trainer.recipe.loss()(trainer.see(heads, rows, {})).backward()

    return flops, run


def needed(model: Any, prompts: PromptBatch) -> float:
    """The products of one pass over these prompts, their prefix once, without pads and without the unembedding."""
    prefix, ends = shared_prefix_length(prompts), (prompts.last_pos + 1).double()
    own = ends - prefix
    # Each token of a prompt attends to all before it, the prefix's among them.
    pairs = float((own * prefix + own * (own + 1) / 2).sum()) + prefix * (prefix + 1) / 2
    return (float(own.sum()) + prefix) * 2 * weights(model) + pairs * 4 * heads_width(model)


def heads_width(model: Any) -> int:
    """Of all heads of all layers together."""
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width * model.n_heads * model.n_layers


def weights(model: Any) -> int:
    """Those of all layers' linear maps."""
    modules = model.hf.base_model.layers.modules()
    return sum(m.weight.numel() for m in modules if isinstance(m, torch.nn.Linear))


def unembedding(model: Any) -> float:
    """The products of one position's logits."""
    return 2.0 * model.hf.get_output_embeddings().weight.numel()


def matmul_rate(model: Any, dtype: torch.dtype) -> float:
    """GFLOP/s over one layer's linear maps on a batch of tokens."""
    modules = [m for m in model.hf.base_model.layers[0].modules() if isinstance(m, torch.nn.Linear)]
    pairs = [
        (torch.randn(TOKENS, m.in_features, dtype=dtype), torch.randn_like(m.weight, dtype=dtype)) for m in modules
    ]
    flops = sum(2 * TOKENS * w.numel() for _, w in pairs)

    def once() -> None:
        for x, w in pairs:
            torch.nn.functional.linear(x, w)

    once()
    return flops / min(seconds(once) for _ in range(20)) / 1e9


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def where(run: Callable[[], Any]) -> dict[str, float]:
    """Shares of the time by kind of operator; what no operator took is Python's."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        took = seconds(run)
    kinds: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other operators")
        kinds[kind] += event.self_cpu_time_total / 1e6
    kinds["Python"] = max(0.0, took - sum(kinds.values()))
    return {kind: round(spent / took, 3) for kind, spent in sorted(kinds.items(), key=lambda item: -item[1])}


if __name__ == "__main__":
    main()
