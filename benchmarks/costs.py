"""What a run costs, from sizes alone: time, memory and bytes on disk; fitted on some shapes, held to others.

python benchmarks/costs.py                    # minutes, on an idle machine; one thread
python benchmarks/costs.py --from FILE        # fits anew on the measurements of that file

Time is that of scoring in float32: products in layers at the rate at which the machine multiplies matrices of these
shapes (measured beside it, a tenth of a second), pairs of tokens that attention computes, entries that are read and
written, and calls; each with a factor of its own (least squares on relative errors, none below zero). Pads count as
what is computed. Random models have the embedded one's tokenizer. Those marked `held_out` had no part in the fit: two
other random models, the embedded one, and Gemma 3 270M where it is. Memory is `memory_estimate`, which
`benchmarks/memory.py` measures. Bytes are those of the parts that `score --parts` writes: so many a prompt and a score.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from limit import heads_width, matmul_rate, weights
from memory import SHAPES, made
from scipy.optimize import nnls

import nasa_interp as ni
from nasa_interp.batches import a_batch_costs, batch_size_for, longest_first, split_batches
from nasa_interp.forward import shared_prefix_length
from nasa_interp.models import load_tokenizer
from nasa_interp.scoring.fused import score_fused
from nasa_interp.streams import stream_scores

# Layers, heads, key and value heads, width, inner width; tokens a prompt, prompts.
FITTED = [
    (layers, heads, groups, width, inner, length, tokens // length)
    for layers, heads, groups, width, inner in (
        (4, 4, 4, 256, 704), (16, 4, 2, 256, 704), (6, 8, 4, 512, 1408), (12, 8, 2, 512, 2048), (4, 12, 4, 768, 2048),
    )
    for length, tokens in ((96, 3072), (512, 4096), (2048, 4096))
] + [(10, 16, 4, 1024, 2816, 300, 12), (6, 16, 8, 1024, 4096, 4096, 1)]  # fmt: skip
HELD_OUT = [(20, 10, 5, 640, 1728, 200, 20), (8, 14, 2, 896, 4864, 1500, 3)]
TERMS = ("layers' products, s at the rate of their shapes", "pairs in attention", "entries moved", "calls")
SECOND = Path(SHAPES["gemma"]["file"])


def random_model(shape: tuple[int, ...], tokenizer: Any) -> Any:
    layers, heads, groups, width, inner, *_ = shape
    names = {"layers": layers, "heads": heads, "groups": groups, "width": width, "inner": inner}
    return made({"kind": "llama", **names}, tokenizer)


def prompts_of(model: Any, length: int, n: int) -> Any:
    """So many prompts of about so many tokens, no two of which share more than the instruction."""
    short = int(ni.build_prompts(model, [ni.BinaryQuestion("0 Is it so?", True, "q")], "yes_no").last_pos[0])
    text = "very " * max(0, length - short - 2)
    return ni.build_prompts(
        model, [ni.BinaryQuestion(f"{i} Is it {text}so?", True, str(i)) for i in range(n)], "yes_no"
    )


def terms(model: Any, prompts: Any) -> list[float]:
    """What the time is made of: seconds, and billions of the others."""
    batches, prefix = batches_of(model, prompts)
    tokens = prefix + sum(n * length for n, length in batches)
    products = 2 * weights(model) * tokens / 1e9 / matmul_rate(model, torch.float32)
    # One prompt alone is causal, and its kernel leaves out what is masked; a batch computes all pairs under a mask.
    pairs = sum(n * length * (prefix + length) for n, length in batches) + prefix**2 / 2
    pairs /= 2 if len(prompts) == 1 else 1
    calls = model.n_layers * (len(batches) + 1)
    return [products, pairs * heads_width(model) / 1e9, tokens * entries(model) / 1e9, calls / 1e9]


def batches_of(model: Any, prompts: Any) -> tuple[list[tuple[int, int]], int]:
    """How many prompts of how many tokens are run at once behind the shared prefix, pads included; and the prefix."""
    prefix, order = shared_prefix_length(prompts), longest_first(prompts)
    lengths = [int(prompts.last_pos[row]) + 1 - prefix for row in order]
    split = split_batches(order, lengths, lambda length: batch_size_for(model, length, prefix), a_batch_costs(model))
    return [(len(rows), int(prompts.last_pos[rows[0]]) + 1 - prefix) for rows in split], prefix


def entries(model: Any) -> int:
    """Entries that a token's pass touches outside products: norms, positions, the inner activation, sums."""
    config, touched = model.config, 0
    for name, module in model.hf.base_model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            touched += module.in_features + module.out_features
            # Queries and keys are turned by their position, and normed by head where the layer has such norms.
            touched += 4 * module.out_features if name.endswith(("q_proj", "k_proj")) else 0
        elif "norm" in name:
            of_heads = {"q_norm": model.n_heads, "k_norm": config.num_key_value_heads}
            touched += 6 * module.weight.numel() * of_heads.get(name.rpartition(".")[2], 1)
    return touched + model.n_layers * (2 * config.hidden_size + 3 * config.intermediate_size)


def measured(model: Any, prompts: Any, runs: int) -> dict[str, Any]:
    """Median seconds of scoring these prompts, after one run that isn't counted."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        score_fused(model, prompts, progress=False)
        times.append(time.perf_counter() - start)
    return {"terms": terms(model, prompts), "seconds": statistics.median(times[1:]), "runs": times[1:]}


def measure(runs: int) -> list[dict[str, Any]]:
    """Every shape's time, random models first."""
    tokenizer, rows = load_tokenizer("demo"), []
    for held_out, shapes in ((False, FITTED), (True, HELD_OUT)):
        for shape in shapes:
            model = random_model(shape, tokenizer)
            about = {"shape": shape, "weights": weights(model), "held_out": held_out}
            rows.append(about | measured(model, prompts_of(model, *shape[-2:]), runs))
            print(rows[-1], flush=True)
    for name in ("demo", str(SECOND)) if SECOND.exists() else ("demo",):
        model = ni.load_model(name)
        asked = ni.build_prompts(model, ni.load_questions("builtin:verify#val", 128), "yes_no")
        about = {"shape": Path(name).stem, "weights": weights(model), "held_out": True}
        rows.append(about | measured(model, asked, runs))
    return rows


def fit(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The factor of each term, from the rows that may be fitted on, and every row's estimate."""
    seen = [row for row in rows if not row["held_out"]]
    # Relative errors: a row of a second counts like one of a tenth.
    design = np.array([np.array(row["terms"]) / row["seconds"] for row in seen])
    scale = design.max(0)
    found = nnls(design / scale, np.ones(len(seen)))[0] / scale
    for row in rows:
        row["estimate"] = float(np.dot(row["terms"], found))
        row["off"] = row["estimate"] / row["seconds"] - 1
    return dict(zip(TERMS, found.tolist(), strict=True))


def bytes_on_disk() -> dict[str, Any]:
    """Bytes a prompt and a score of what `score --parts` writes, from two models; told for the embedded one."""
    tokenizer, rows = load_tokenizer("demo"), []
    models = [random_model(shape, tokenizer) for shape in ((2, 4, 4, 256, 704), (16, 4, 2, 256, 704))]
    for model in (*models, ni.load_model("demo")):
        with tempfile.TemporaryDirectory() as folder:
            stream_scores(model, "builtin:verify#val", folder, draws=1, progress=False)
            size = sum(path.stat().st_size for path in Path(folder).glob("part-*"))
        n = 2 * len(ni.load_questions("builtin:verify#val"))
        rows.append({"heads": model.n_layers * model.n_heads, "bytes_a_prompt": size / n})
    few, many, held = rows
    a_score = (many["bytes_a_prompt"] - few["bytes_a_prompt"]) / (many["heads"] - few["heads"])
    estimate = few["bytes_a_prompt"] + a_score * (held["heads"] - few["heads"])
    off = estimate / held["bytes_a_prompt"] - 1
    return {"a_score": a_score, "rows": rows, "held_out": {"model": "demo", "estimate": estimate, "off": off}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(options.source.read_text()) if options.source else None
    rows = measure(options.runs) if before is None else before["rows"]
    rates = fit(rows)
    on_disk = bytes_on_disk() if before is None else before["bytes"]
    result = {"threads": 1, "factors": rates, "rows": rows, "bytes": on_disk}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        kind = "held out" if row["held_out"] else "fitted"
        print(f"{kind}: {row['shape']}: {row['seconds']:.2f} s, estimate {row['off']:+.0%}")
    print(rates, on_disk["held_out"])


if __name__ == "__main__":
    main()
