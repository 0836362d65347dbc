"""Models larger than memory: what layers on disk cost in time, what they save in memory, and whether the answers stay.

python benchmarks/offload.py demo              # four placements, two dtypes, a fresh process each; minutes
python benchmarks/offload.py FOLDER --questions 64
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from memory import in_fresh_process

from nasa_interp.run import write_json

DTYPES = ("float32", "bfloat16")
HEADS = ["17.7", "13.6"]


def placements(layers: int, size: int) -> dict[str, dict[str, Any]]:
    """Every other layer on disk; everything on disk; `auto` under half of the model's size."""
    parts = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    mixed = {f"model.layers.{layer}": "disk" if layer % 2 else "cpu" for layer in range(layers)}
    return {
        "every other layer on disk": {"device_map": mixed | dict.fromkeys(parts, "cpu")},
        "everything on disk": {"device_map": {"": "disk"}},
        "auto, half of its size": {"max_memory": {"cpu": size // 2}},
    }


def memory(kind: str) -> int:
    """This process's memory of one kind in bytes, such as RssAnon: what no file backs."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{kind}:"))


class Peak(threading.Thread):
    """The most that RssAnon and RssFile reach, looked at a few hundred times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = {"RssAnon": 0, "RssFile": 0}, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.003):
            self.most = {kind: max(most, memory(kind)) for kind, most in self.most.items()}


def measure(name: str, dtype: str, options: dict[str, Any], questions: int, values: Path) -> dict[str, Any]:
    """One placement in this process, which did nothing else: seconds, memory beyond what was there before loading."""
    import nasa_interp as ni
    from nasa_interp import models  # noqa: F401 - the libraries are there before memory is looked at

    import transformers.models.llama.modeling_llama  # noqa: F401 # isort: skip

    asked = ni.load_questions("builtin:verify#val", questions)
    quiet: dict[str, Any] = {"draws": 200, "progress": False}
    before, peak, seconds = {kind: memory(kind) for kind in ("RssAnon", "RssFile")}, Peak(), {}
    peak.start()

    def timed(verb: str, call: Any) -> Any:
        start = time.perf_counter()
        found = call()
        seconds[verb] = time.perf_counter() - start
        return found

    model = timed("load", lambda: ni.load_model(name, dtype=dtype, **options))
    digest = timed("hash", model.weights_hash)
    report = timed("decide", lambda: ni.decide(model, asked, **quiet))
    scores = timed("score", lambda: ni.score_heads(model, asked, engine="fused", **quiet))
    effect = timed("ablate", lambda: ni.ablation_effect(model, asked, HEADS, **quiet))
    peak.over.set()
    peak.join()
    np.savez(values, d=report.logit_differences, scores=scores.values, changed=effect.changed.logit_differences)
    grown = {kind: peak.most[kind] - before[kind] for kind in before}
    return {
        "seconds": seconds,
        "hash": digest,
        "placed": model.state_notes(),
        "layers": model.n_layers,
        "model_bytes": sum(p.numel() * p.element_size() for p in model.hf.parameters()),
        "anonymous_bytes": grown["RssAnon"],
        "file_bytes": grown["RssFile"],
    }


def apart(values: Path, whole: Path) -> dict[str, float]:
    """The largest difference of each kind of number from the model in memory."""
    with np.load(values) as mine, np.load(whole) as other:
        return {name: float(np.nanmax(np.abs(mine[name] - other[name]))) for name in other.files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.child:
        name, dtype, placed, questions, values = json.loads(options.child)
        print(json.dumps(measure(name, dtype, placed, questions, Path(values))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        whole, placed = Path(folder) / "whole.npz", Path(folder) / "placed.npz"
        for dtype in DTYPES:
            base = in_fresh_process(__file__, json.dumps([options.model, dtype, {}, options.questions, str(whole)]))
            size = base["model_bytes"]
            rows.append({"dtype": dtype, "placement": "in memory", **base})
            for place, given in placements(base["layers"], size).items():
                row = in_fresh_process(
                    __file__, json.dumps([options.model, dtype, given, options.questions, str(placed)])
                )
                found = {**row, "model_bytes": size, "same_hash": row["hash"] == base["hash"]}
                rows.append({"dtype": dtype, "placement": place, **found, "apart": apart(placed, whole)})
            for row in rows[-4:]:
                row["anonymous_share"] = row["anonymous_bytes"] / size
                print(json.dumps({k: v for k, v in row.items() if k != "hash"}))
    write_json(options.out, {"model": options.model, "questions": options.questions, "rows": rows})


if __name__ == "__main__":
    main()
