"""What a run costs, from sizes alone: time, memory and bytes on disk; fitted on some shapes, held to others.

python benchmarks/costs.py                    # minutes, on an idle machine; one thread
python benchmarks/costs.py --from FILE        # fits anew on the measurements of that file

Time is that of scoring in float32: products in layers, products in attention, entries that are read and written, and
calls, each at a rate of its own (least squares on relative errors, none below zero). Random models have the embedded
one's tokenizer. Those marked `held_out` had no part in the fit: a larger model than all of them, the embedded one, and
Gemma 3 270M where it is. Memory is `memory_estimate`, which `benchmarks/memory.py` measures. Bytes are those of the
parts that `score --parts` writes: so many a prompt and so many a score.
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
from limit import products, weights
from memory import SHAPES, made
from scipy.optimize import nnls

import nasa_interp as ni
from nasa_interp.batches import batch_size_for, longest_first, split_batches
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
]  # fmt: skip
HELD_OUT = [(10, 16, 4, 1024, 2816, 300, 12), (6, 16, 8, 1024, 4096, 4096, 1)]
TERMS = ("layers' products", "attention's products", "entries moved", "calls")
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
    """What the time is made of, in billions."""
    config = model.config
    prefix, order = shared_prefix_length(prompts), longest_first(prompts)
    lengths = [int(prompts.last_pos[row]) + 1 - prefix for row in order]
    batches = len(list(split_batches(order, lengths, lambda length: batch_size_for(model, length, prefix))))
    layers, attention = products(model, prompts)
    moved = (sum(lengths) + prefix) * model.n_layers * (8 * config.hidden_size + 3 * config.intermediate_size)
    calls = model.n_layers * (batches + 1)
    return [layers / 1e9, attention / 1e9, moved / 1e9, calls / 1e9]


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
    """Seconds for a billion of each term, from the rows that may be fitted on, and every row's estimate."""
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
    result = {"threads": 1, "seconds_a_billion": rates, "rows": rows, "bytes": on_disk}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        kind = "held out" if row["held_out"] else "fitted"
        print(f"{kind}: {row['shape']}: {row['seconds']:.2f} s, estimate {row['off']:+.0%}")
    print(rates, on_disk["held_out"])


if __name__ == "__main__":
    main()
