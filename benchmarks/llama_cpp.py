"""How far llama.cpp is from us on the same weights: the base's GGUF file, a cured model's, the base with the adapter.

python benchmarks/llama_cpp.py                        # the embedded model, tuned here: some ten minutes on two cores
python benchmarks/llama_cpp.py --delta RUN/delta.safetensors

Needs xllamacpp (in the extra `dev`), which runs llama.cpp's own server on this machine. Each side answers the same
questions of `builtin:verify#val`, both orders: we in memory, from the weights that the file's tensors give in fp32;
llama.cpp from the file, through its chat endpoint. llama.cpp quantizes activations where weights are quantized, so it
is some way off on the base already: by its largest distance there the others are judged.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp

import nasa_interp as ni
from nasa_interp.decisions import BinaryReport
from nasa_interp.deltas import export
from nasa_interp.models.loading import demo_file
from nasa_interp.run import write_json

VERSION = xllamacpp.__version__
# What was asked for before anything was measured.
POOLED, WITHIN, MEANS, YES = 0.97, 0.95, 0.25, 0.08


@contextmanager
def llama_server(path: Path, adapter: Path | None = None) -> Iterator[str]:
    """llama.cpp's server on a free port of this machine, on one thread; gives its address."""
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.n_ctx, params.n_parallel = str(path), 0, 4096, 1
    params.n_gpu_layers, params.warmup, params.verbosity = 0, False, 0
    # More would wait for each other on busy cores.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    if adapter is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 1.0
        params.lora_adapters = [lora]
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


def tuned(model: Any, seed: int) -> Any:
    """A delta of the ten heads with the most polarity, tuned with labels for as many steps as validation wants."""
    heads = ni.score_heads(model, "builtin:verify#probe", limit=64, progress=False).top(10, by="polarity")
    run = ni.align_heads(
        model, heads, probe="builtin:verify#probe", val="builtin:verify#val", seed=seed, progress=False
    )
    print(run, file=sys.stderr, flush=True)
    return run.delta


def compare(ours: BinaryReport, theirs: BinaryReport) -> dict[str, Any]:
    """Both sides' d, in numbers."""
    a, b, orders = ours.logit_differences, theirs.logit_differences, np.array(ours.order)
    within = {str(o): float(np.corrcoef(a[orders == o], b[orders == o])[0, 1]) for o in dict.fromkeys(ours.order)}
    apart = [
        {"id": ours.questions[i].id, "order": ours.order[i], "ours": float(a[i]), "llama.cpp": float(b[i])}
        for i in np.flatnonzero((a < 0) != (b < 0))
    ]
    return {
        "decisions": len(a),
        "correlation": float(np.corrcoef(a, b)[0, 1]),
        "correlation_within": within,
        "mean": {"ours": float(a.mean()), "llama.cpp": float(b.mean())},
        "yes_rate": {"ours": ours.yes_rate, "llama.cpp": theirs.yes_rate},
        "answer_mass": {"ours": ours.answer_mass, "llama.cpp": theirs.answer_mass},
        "largest_distance": float(np.abs(a - b).max()),
        "disagreements": apart,
        "seconds": {"ours": ours.run.seconds, "llama.cpp": theirs.run.seconds},
        "notes": theirs.run.notes,
    }


def judge(found: dict[str, Any], bound: float) -> dict[str, bool]:
    """What was asked for, and whether it holds; `bound` is llama.cpp's largest distance on the base."""
    mean, yes = found["mean"], found["yes_rate"]
    larger = [max(abs(row["ours"]), abs(row["llama.cpp"])) for row in found["disagreements"]]
    return {
        f"correlation >= {POOLED}": found["correlation"] >= POOLED,
        f"within an order >= {WITHIN}": min(found["correlation_within"].values()) >= WITHIN,
        f"means within {MEANS}": abs(mean["ours"] - mean["llama.cpp"]) <= MEANS,
        f"yes rates within {YES}": abs(yes["ours"] - yes["llama.cpp"]) <= YES,
        "every disagreement's |d| below the base's largest distance": all(d < bound for d in larger),
    }


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All cases."""
    model = ni.load_model(args.model)
    file = demo_file() if args.model == "demo" else Path(args.model)
    delta = tuned(model, args.seed) if args.delta is None else ni.HeadDelta.load(args.delta)
    questions = ni.load_questions("builtin:verify#val", args.questions)
    style = ni.PromptStyle(kind=args.kind)
    # Which also compares the logits that transformers' own reader gives with the tuned model's.
    whole = export(model, delta, folder / "gguf", "gguf") / "model.gguf"
    adapter = export(model, delta, folder / "lora", "gguf-lora") / "adapter.gguf"
    base = ni.decide(model, questions, style=style, progress=False)
    with delta.applied(model):
        cured = ni.decide(model, questions, style=style, progress=False)
    cases: dict[str, Any] = {}
    rows = {"base": (file, None, base), "cured": (whole, None, cured), "adapter": (file, adapter, cured)}
    for name, (path, lora, ours) in rows.items():
        with llama_server(path, lora) as address:
            theirs = ni.decide(ni.load_server(address), questions, style=style, progress=False)
        cases[name] = compare(ours, theirs)
        cases[name]["holds"] = judge(cases[name], cases["base"]["largest_distance"])
        print(name, cases[name], file=sys.stderr, flush=True)
    return {
        "heads": [str(h) for h in delta.heads],
        "changed": delta.n_changed,
        "cases": cases,
        "run": base.run.to_dict(),
    }


def main() -> None:
    """Measures and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo or a .gguf file")
    parser.add_argument("--delta", type=Path, help="a change that was tuned before")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--kind", default="auto", choices=("auto", "chat", "plain"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args, start = parser.parse_args(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    seconds = round(time.perf_counter() - start)
    about = {"kind": "llama_cpp_benchmark", "model": args.model, "xllamacpp": VERSION, "seconds": seconds}
    write_json(args.out, {**about, **found})


if __name__ == "__main__":
    main()
