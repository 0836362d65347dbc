"""`doctor`'s estimate of memory against the peak that scoring one prompt took, for models of several shapes.

python benchmarks/memory.py                    # every shape and engine, a fresh process each; some minutes
python benchmarks/memory.py --shapes wide demo

A row's peak is the growth of this process's resident memory, weights included, over a process in which a tiny model of
the same kind was scored by the same engine, so that what the libraries and the tokenizer take once is not in it.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nasa_interp.run import write_json

# Random ones have the embedded model's tokenizer, whose words they need.
SHAPES: dict[str, dict[str, Any]] = {
    "demo": {},
    # Not one of those that the estimate was fitted on; there after `make second-model`.
    "gemma": {"file": ".second-model/gemma-3-270m.gguf"},
    "wide": {"kind": "llama", "layers": 4, "heads": 16, "groups": 4, "width": 1536, "inner": 6144, "length": 1024},
    "deep": {"kind": "llama", "layers": 24, "heads": 8, "groups": 2, "width": 512, "inner": 1408, "length": 2048},
    "heads": {"kind": "llama", "layers": 6, "heads": 32, "groups": 8, "width": 1024, "inner": 2816, "length": 2048},
    "joined": {"kind": "gpt2", "layers": 8, "heads": 12, "groups": 12, "width": 768, "inner": 3072, "length": 1024},
    "bfloat16": {
        "kind": "llama", "layers": 12, "heads": 16, "groups": 4, "width": 1280, "inner": 5120, "length": 1024,
        "dtype": "bfloat16",
    },
    "long": {"kind": "llama", "layers": 4, "heads": 4, "groups": 2, "width": 256, "inner": 704, "length": 6144},
}  # fmt: skip
TINY = {"layers": 2, "heads": 4, "groups": 2, "width": 64, "inner": 128, "length": 512}


def made(shape: dict[str, Any], tokenizer: Any) -> Any:
    """A model of this shape with random weights."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    import nasa_interp as ni

    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    if shape["kind"] == "gpt2":
        config: Any = GPT2Config(
            vocab_size=len(tokenizer), n_positions=8192, n_embd=shape["width"], n_layer=shape["layers"],
            n_head=shape["heads"], n_inner=shape["inner"], **special,
        )  # fmt: skip
    else:
        config = LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=shape.get("positions", 8192), hidden_size=shape["width"],
            num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["groups"],
            intermediate_size=shape["inner"], tie_word_embeddings=True, **special,
        )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.get("dtype", "float32")))
    return ni.load_model(model.eval(), tokenizer=tokenizer)


def one_question(model: Any, length: int) -> list[Any]:
    """One question whose prompt has about this many tokens."""
    import nasa_interp as ni

    short = int(ni.build_prompts(model, [ni.BinaryQuestion("Is it so?", True, "q")], "yes_no").last_pos[0])
    return [ni.BinaryQuestion(f"Is it {'very ' * (length - short - 1)}so?", True, "q")]


def resident(kind: str) -> int:
    """VmRSS, or VmHWM: the most that it was since the last call of `forget_peak`."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{kind}:"))


def forget_peak() -> None:
    """Gives back what is free, and begins anew to look for the peak."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def measure(name: str, engine: str) -> dict[str, Any]:
    """The estimate and the peak of one shape, in this process, which did nothing else."""
    import torch

    import nasa_interp as ni
    from nasa_interp.memory import memory_estimate

    torch.set_num_threads(1)
    shape = SHAPES[name]
    tokenizer = ni.load_model(shape.get("file", "demo")).tokenizer
    quiet: dict[str, Any] = {"draws": 10, "progress": False}
    run = {
        "fused": lambda model, asked: ni.decide(model, asked, **quiet),
        "hooked": lambda model, asked: ni.score_heads(model, asked, engine="hooked", **quiet),
        "score": lambda model, asked: ni.score_heads(model, asked, **quiet),
    }[engine]
    tiny = made({**TINY, "kind": "llama", **{k: shape[k] for k in ("kind", "dtype") if k in shape}}, tokenizer)
    run(tiny, one_question(tiny, TINY["length"]))
    del tiny
    forget_peak()
    before = resident("VmRSS")
    model = made(shape, tokenizer) if "kind" in shape else ni.load_model(shape.get("file", "demo"))
    # Its own, which was there before, in place of another copy: Gemma's takes 270 MB.
    model.tokenizer = tokenizer
    asked = one_question(model, shape.get("length", 1024))
    forget_peak()
    run(model, asked)
    peak, length = resident("VmHWM") - before, int(ni.build_prompts(model, asked, "yes_no").last_pos[0]) + 1
    estimate = memory_estimate(model, length)
    return {"length": length, "weights": estimate["weights"], "peak": peak, "estimate": estimate[engine]}


def in_fresh_process(script: str, *arguments: str, threads: int | None = None) -> dict[str, Any]:
    """What `script --child ARGUMENTS` prints as its last line, in a process that did nothing else."""
    command = [sys.executable, "-W", "ignore", script, "--child", *arguments]
    threaded = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run(command, env=os.environ | threaded, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    there = [name for name, shape in SHAPES.items() if Path(shape.get("file", __file__)).exists()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=there)
    parser.add_argument(
        "--engines", nargs="+", choices=("fused", "hooked", "score"), default=["fused", "hooked", "score"]
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child)))
        return
    rows = []
    for name in options.shapes:
        for engine in options.engines:
            row = in_fresh_process(__file__, name, engine)
            rows.append({"shape": name, "engine": engine, **row, "off": row["estimate"] / row["peak"] - 1})
            mib = {key: round(row[key] / 2**20) for key in ("weights", "peak", "estimate")}
            print(f"{name:10} {engine:6} {row['length']:5} tokens {mib} {rows[-1]['off']:+.1%}", flush=True)
    write_json(options.out, {"shapes": SHAPES, "rows": rows})


if __name__ == "__main__":
    main()
