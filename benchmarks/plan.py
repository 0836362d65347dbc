"""Models that no memory here holds: how many accelerators take them, by the rules that `device_map="auto"` places by.

python benchmarks/plan.py            # seconds: the models are built on PyTorch's meta device, without weights

Shapes are those of Llama 3.1's published configurations; sizes of weights are held to those that Meta and Hugging Face
publish. Nothing here was run on an accelerator.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from accelerate import infer_auto_device_map
from transformers import AutoModelForCausalLM, LlamaConfig

from nasa_interp.memory import activation_bytes

# Hidden size, layers, heads, key and value heads, inner size; parameters and 16-bit gigabytes as published.
MODELS = {
    "Llama 3.1 8B": (4096, 32, 32, 8, 14336, 8.03e9, 16),
    "Llama 3.1 70B": (8192, 80, 64, 8, 28672, 70.6e9, 140),
    "Llama 3.1 405B": (16384, 126, 128, 8, 53248, 406e9, 810),
}
ACCELERATORS = (1, 2, 4, 8, 16, 32, 64)
# Of 80 GB, what a driver, PyTorch's context and its allocator leave.
GIB, USABLE = 2**30, 74 * 2**30
BATCH, TOKENS = 16384, 8192


def built(shape: tuple[Any, ...]) -> Any:
    """The model in bfloat16, without weights."""
    width, layers, heads, groups, inner, *_ = shape
    config = LlamaConfig(
        vocab_size=128256, max_position_embeddings=131072, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=groups, intermediate_size=inner, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def planned(name: str, shape: tuple[Any, ...]) -> dict[str, Any]:
    """Sizes of a model, and for each number of accelerators how it lies on them."""
    model, (width, _, heads, _, inner, parameters, gigabytes) = built(shape), shape
    count = sum(p.numel() for p in model.parameters())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # What a pass holds besides weights, on each accelerator: a full batch, or one prompt of this length.
    pass_ = activation_bytes(2, BATCH, width, inner, 3)
    long = activation_bytes(2, TOKENS, width, inner, 3)
    return {
        "model": name,
        "parameters": count,
        "published_parameters": parameters,
        "gigabytes": weights / 1e9,
        "published_gigabytes": gigabytes,
        "pass_gib": pass_ / GIB,
        f"prompt_of_{TOKENS}_gib": long / GIB,
        # The scores of one prompt, and the patterns that nobody keeps.
        "score_bytes_a_prompt": 4 * shape[1] * heads,
        "patterns_gib_of_one_prompt": 2 * shape[1] * heads * TOKENS**2 / GIB,
        "placements": [placed(model, weights, n, pass_) for n in ACCELERATORS],
    }


def placed(model: Any, weights: int, n: int, held: int) -> dict[str, Any]:
    """Whether the weights fit on so many, each of which also holds a pass, and how many copies those make."""
    room = USABLE - held
    for size in range(math.ceil(weights / room), n + 1):
        if "cpu" not in device_map(model, size, room).values():
            return {"accelerators": n, "each_copy_takes": size, "copies": n // size}
    parts = dict(model.named_modules())
    here = [parts[part] for part, place in device_map(model, n, room).items() if place != "cpu"]
    fits = sum(p.numel() * p.element_size() for part in here for p in part.parameters())
    return {"accelerators": n, "share_that_fits": fits / weights}


def device_map(model: Any, n: int, room: int) -> dict[str, Any]:
    """Where each part goes on so many accelerators and a processor that holds the rest; no layer is cut."""
    limits = {**dict.fromkeys(range(n), room), "cpu": 2**50}
    return infer_auto_device_map(model, limits, model._no_split_modules, dtype=torch.bfloat16)


def main() -> None:
    rows = [planned(name, shape) for name, shape in MODELS.items()]
    result = {"usable_gib": USABLE / GIB, "tokens_in_a_pass": BATCH, "models": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
