"""Scoring and sweeping beside what a user would do instead: medians of interleaved runs, ratios within one run.

python benchmarks/scoring.py --data dev.json            # StrategyQA; built-in questions without it
python benchmarks/scoring.py --prompts 32 --heads 54    # ends in minutes
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nnsight
import numpy as np
import torch
import transformers
from torch import Tensor

import nasa_interp as ni
from nasa_interp.attention import Spans, instrumented
from nasa_interp.heads import Head
from nasa_interp.interventions import scale_rows, sweep
from nasa_interp.models import Model
from nasa_interp.models.bridge import eager_twin, pattern_hook, z_hook
from nasa_interp.prompts import ORDERS, PromptBatch, build_prompts
from nasa_interp.scoring.formula import negative_attention_score, span_index
from nasa_interp.scoring.fused import score_fused

PADDED = 32  # prompts of similar length in a padded batch

Row = dict[str, Any]


def interleaved(sides: dict[str, Callable[[], Any]], runs: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each side in each run, the sides taking turns, and what each gave in the last run."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    for _ in range(runs):
        for name, side in sides.items():
            start = time.perf_counter()
            results[name] = side()
            seconds[name].append(time.perf_counter() - start)
            print(f"  {name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    return seconds, results


def ratio(over: list[float], under: list[float]) -> float:
    """The median of the ratios within each run."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


# StrategyQA, both orders --------------------------------------------------------------------------------------------


def length_sorted(prompts: PromptBatch, batch_size: int) -> Iterator[list[int]]:
    """Places of prompts in batches of similar length, the longest first, so that memory peaks at once."""
    places = torch.argsort(prompts.last_pos, descending=True, stable=True).tolist()
    for start in range(0, len(places), batch_size):
        yield places[start : start + batch_size]


def pattern_nas(pattern: Tensor, batch: PromptBatch) -> Tensor:
    """NAS from an attention matrix [batch, head, query, key]."""
    start, logs = int(batch.first_query.min()), []
    for span in (batch.yes_span, batch.no_span):
        index, real = span_index(span)
        columns = pattern[:, :, start:].gather(
            -1, index[:, None, None].expand(-1, *pattern.shape[1:2], pattern.shape[2] - start, -1)
        )
        logs.append(((columns * real[:, None, None]).sum(-1) / real.sum(-1)[:, None, None]).log())
    queries = torch.arange(start, pattern.shape[2])
    counted = (queries >= batch.first_query[:, None]) & (queries <= batch.last_pos[:, None])
    return negative_attention_score(*logs, counted[:, None])


@torch.no_grad()
def cached_patterns(model: Model, prompts: PromptBatch) -> Tensor:
    """TransformerLens's cache, filtered to patterns, one prompt at a time."""
    scores = torch.empty(len(prompts), model.n_layers, model.n_heads)
    for place in range(len(prompts)):
        one = prompts.select([place])
        _, cache = model.bridge.run_with_cache(
            one.tokens, return_type=None, names_filter=lambda name: name.endswith("hook_pattern")
        )
        for layer in range(model.n_layers):
            scores[place, layer] = pattern_nas(cache[pattern_hook(layer)], one)[0]
    return scores


@torch.no_grad()
def eager_attentions(eager: Any, prompts: PromptBatch, by_length: bool) -> Tensor:
    """Transformers with its attentions returned, in padded batches: of similar length, or in the order of the data."""
    config = eager.config
    scores = torch.empty(len(prompts), config.num_hidden_layers, config.num_attention_heads)
    in_order = (list(range(len(prompts)))[start : start + PADDED] for start in range(0, len(prompts), PADDED))
    for places in length_sorted(prompts, PADDED) if by_length else in_order:
        batch = prompts.select(places)
        found = eager(
            batch.tokens,
            attention_mask=batch.mask.long(),
            output_attentions=True,
            use_cache=False,
            logits_to_keep=1,
        )
        scores[places] = torch.stack([pattern_nas(pattern, batch) for pattern in found.attentions], 1)
    return scores


@torch.no_grad()
def traced_attentions(net: nnsight.NNsight, prompts: PromptBatch) -> Tensor:
    """nnsight: the attentions of the same model, in padded batches of similar length."""
    layers = net.model.layers
    scores = torch.empty(len(prompts), len(layers), net.config.num_attention_heads)
    for places in length_sorted(prompts, PADDED):
        batch = prompts.select(places)
        with net.trace(batch.tokens, attention_mask=batch.mask.long(), use_cache=False, logits_to_keep=1):
            found = nnsight.save([])
            for layer in layers:
                found.append(layer.self_attn.output[1])
        scores[places] = torch.stack([pattern_nas(pattern, batch) for pattern in found], 1)
    return scores


@torch.no_grad()
def plain_forward(model: Model, prompts: PromptBatch) -> None:
    """The plain fused pass in padded batches of similar length, nothing read."""
    for places in length_sorted(prompts, PADDED):
        batch = prompts.select(places)
        model.hf(batch.tokens, attention_mask=batch.mask.long(), use_cache=False, logits_to_keep=1)


def benchmark_scores(model: Model, data: str, limit: int | None, runs: int) -> tuple[list[Row], dict]:
    questions = ni.load_questions(data)[:limit]
    batches = [build_prompts(model, questions, order) for order in ORDERS]
    eager = eager_twin(model.hf)
    net = nnsight.NNsight(eager)
    padded = f"padded by {PADDED}"
    sides = {
        "fused score": lambda: [score_fused(model, prompts, progress=False)[0] for prompts in batches],
        "run_with_cache, patterns, one by one": lambda: [cached_patterns(model, prompts) for prompts in batches],
        f"eager output_attentions, {padded}": lambda: [eager_attentions(eager, p, False) for p in batches],
        f"eager output_attentions, {padded}, sorted": lambda: [eager_attentions(eager, p, True) for p in batches],
        f"nnsight, attentions, {padded}, sorted": lambda: [traced_attentions(net, p) for p in batches],
        f"plain fused forward, {padded}, sorted": lambda: [plain_forward(model, prompts) for prompts in batches],
    }
    few = [prompts.select(range(min(2, len(prompts)))) for prompts in batches]
    for warm in (lambda p: score_fused(model, p, progress=False), lambda p: cached_patterns(model, p),
                 lambda p: eager_attentions(eager, p, True), lambda p: traced_attentions(net, p),
                 lambda p: plain_forward(model, p)):  # fmt: skip
        warm(few[0])
    seconds, results = interleaved(sides, runs)
    ours, *others = list(sides)
    largest = max(float(scores.abs().max()) for scores in results[ours])
    rows = []
    for name, target in zip(others, (6, 3, 3, 3, 2), strict=True):
        row: Row = {"what": f"{name} / {ours}", "ratio": ratio(seconds[name], seconds[ours]), "at_least": target}
        if results[name][0] is not None:
            off = [float((a - b).abs().max()) for a, b in zip(results[ours], results[name], strict=True)]
            row["largest_difference"] = max(off)
        rows.append(row)
    details = {
        "data": Path(data).name,
        "prompts": len(questions),
        "orders": 2,
        "seconds": seconds,
        "largest_score": largest,
    }
    return rows, details


# One long prompt ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def long_pass(length: int, read: bool) -> None:
    """In a process of its own: one pass over one prompt; prints its time and the process's peak memory."""
    model = ni.load_model("demo")
    tokens = torch.randint(0, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    spans = Spans(torch.tensor([[30, 31]]), torch.tensor([[32, 33]]))
    model.hf(tokens[:, :64], use_cache=False, logits_to_keep=1)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if read:
        with instrumented(model.hf, spans=spans, first_query=35):
            model.hf(tokens, use_cache=False, logits_to_keep=1)
    else:
        model.hf(tokens, use_cache=False, logits_to_keep=1)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024, "loaded_mb": loaded / 1024}))


def benchmark_long(length: int, runs: int, threads: int) -> tuple[list[Row], dict]:
    found: dict[str, list[dict]] = {"plain": [], "instrumented": []}
    for _ in range(runs):
        for side, measured in found.items():
            command = [sys.executable, __file__, "--threads", str(threads), "--child", str(length), side]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            measured.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"  {length} tokens, {side}: {measured[-1]}", file=sys.stderr)
    rows = []
    for key, name in (("seconds", "time"), ("peak_mb", "peak memory")):
        ours, plain = ([one[key] for one in found[side]] for side in ("instrumented", "plain"))
        what = f"{length} tokens, {name}: instrumented / plain fused forward"
        rows.append({"what": what, "ratio": ratio(ours, plain), "at_most": 1.2})
    return rows, found


# A sweep over heads -------------------------------------------------------------------------------------------------


@torch.no_grad()
def hooked_sweep(model: Model, prompts: PromptBatch, heads: list[Head]) -> np.ndarray:
    """Zero ablation with TransformerLens hooks, all prompts in one padded batch."""
    d, rows = np.empty((len(heads), len(prompts))), torch.arange(len(prompts))
    for place, head in enumerate(heads):

        def zero(z: Tensor, hook: Any, index: int = head.index) -> Tensor:
            z[:, :, index] = 0
            return z

        logits = model.bridge.run_with_hooks(
            prompts.tokens, attention_mask=prompts.mask.long(), fwd_hooks=[(z_hook(head.layer), zero)]
        )[rows, prompts.last_pos]
        d[place] = (logits[:, prompts.no_token] - logits[:, prompts.yes_token]).numpy()
    return d


@torch.no_grad()
def traced_sweep(net: nnsight.NNsight, prompts: PromptBatch, heads: list[Head]) -> np.ndarray:
    """The same with nnsight, where a head's output enters the output projection."""
    d, rows = np.empty((len(heads), len(prompts))), torch.arange(len(prompts))
    width = net.model.layers[0].self_attn.head_dim
    for place, head in enumerate(heads):
        own = slice(head.index * width, (head.index + 1) * width)
        with net.trace(prompts.tokens, attention_mask=prompts.mask.long(), use_cache=False):
            net.model.layers[head.layer].self_attn.o_proj.input[..., own] = 0
            logits = net.output.logits.save()
        last = logits[rows, prompts.last_pos]
        d[place] = (last[:, prompts.no_token] - last[:, prompts.yes_token]).numpy()
    return d


def benchmark_sweep(model: Model, data: str, count: int | None, runs: int, seed: int) -> tuple[list[Row], dict]:
    prompts = build_prompts(model, ni.load_questions(data)[:4])
    everything = [Head(layer, index) for layer in range(model.n_layers) for index in range(model.n_heads)]
    drawn = np.random.default_rng(seed).permutation(len(everything))[:count]
    heads = [everything[place] for place in sorted(drawn)]
    net = nnsight.NNsight(model.hf)
    sides = {
        "sweep_heads": lambda: sweep(model, prompts, heads, scale_rows(0.0)).d,
        "TransformerLens hooks": lambda: hooked_sweep(model, prompts, heads),
        "nnsight": lambda: traced_sweep(net, prompts, heads),
    }
    sweep(model, prompts, heads[:1], scale_rows(0.0))
    hooked_sweep(model, prompts, heads[:1])
    traced_sweep(net, prompts, heads[:1])
    seconds, results = interleaved(sides, runs)
    ours, *others = sides
    rows: list[Row] = [
        {
            "what": f"zero ablation of {len(heads)} of {len(everything)} heads, 4 prompts: {other} / {ours}",
            "ratio": ratio(seconds[other], seconds[ours]),
            "at_least": 4,
            "largest_difference": float(np.abs(results[ours] - results[other]).max()),
        }
        for other in others
    ]
    return rows, {"heads": len(heads), "of": len(everything), "prompts": 4, "seed": seed, "seconds": seconds}


# Output -------------------------------------------------------------------------------------------------------------


def met(row: Row) -> bool:
    return row["ratio"] >= row["at_least"] if "at_least" in row else row["ratio"] <= row["at_most"]


def print_table(rows: list[Row]) -> None:
    for row in rows:
        bound = f">= {row['at_least']}" if "at_least" in row else f"<= {row['at_most']}"
        off = f", largest difference {row['largest_difference']:.1e}" if "largest_difference" in row else ""
        print(f"{row['ratio']:7.2f}  {bound:8} {'met' if met(row) else 'MISSED':7} {row['what']}{off}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="StrategyQA's dev.json; without it the built-in questions")
    parser.add_argument("--prompts", type=int, help="so many questions only")
    parser.add_argument("--heads", type=int, help="sweep so many heads only, drawn at random, on both sides")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="*", default=[2048, 8192])
    parser.add_argument("--parts", nargs="*", default=["scores", "long", "sweep"], choices=["scores", "long", "sweep"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    if options.child:
        return long_pass(int(options.child[0]), options.child[1] == "instrumented")
    data = f"strategyqa:{options.data}" if options.data else "builtin:verify#test"
    rows: list[Row] = []
    details: dict[str, Any] = {}
    if "long" in options.parts:
        for length in options.lengths:
            more, details[f"{length} tokens"] = benchmark_long(length, options.runs, options.threads)
            rows += more
    model = ni.load_model("demo")
    if "scores" in options.parts:
        more, details["scores"] = benchmark_scores(model, data, options.prompts, options.runs)
        rows += more
    if "sweep" in options.parts:
        more, details["sweep"] = benchmark_sweep(model, data, options.heads, options.runs, seed=0)
        rows += more
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    machine = {"threads": options.threads, "processor": platform.machine(), "runs": options.runs} | versions
    result = {"machine": machine, "rows": [{**row, "met": met(row)} for row in rows], "details": details}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if "scores" in details:
        asked = f"{details['scores']['prompts']} questions of {Path(data).name}, both orders"
        print(f"{asked}; {options.threads} threads, medians of {options.runs} runs")
    print_table(rows)


if __name__ == "__main__":
    main()
