"""The estimate of memory: its terms, and a pass of known sizes held to its measured peak in a fresh process."""

import pytest
import torch
from families import tiny_model, tiny_tokenizer
from test_model_files import saved

from nasa_interp import load_model
from nasa_interp.memory import HOOKED_VIEW, SLACK, memory_estimate


def of(family: str = "llama", dtype: torch.dtype = torch.float32):
    return load_model(tiny_model(family).to(dtype), tokenizer=tiny_tokenizer())


def test_it_grows_as_the_engines_do():
    model = of()
    short, long = memory_estimate(model, 2000), memory_estimate(model, 4000)
    weights = 4 * sum(parameter.numel() for parameter in model.hf.parameters())
    assert short["weights"] == long["weights"] == weights
    fixed = weights + SLACK
    # One layer's activations grow with the prompt, the hooked engine's attention with its square.
    assert long["fused"] - fixed == 2 * (short["fused"] - fixed)
    linear = 4 * 2000 * 48 * (8 + 2)
    fixed += HOOKED_VIEW
    assert long["hooked"] - fixed - 2 * linear == 4 * (short["hooked"] - fixed - linear)
    assert short["score"] == max(short["fused"], short["hooked"])


def test_half_the_bytes_are_half_the_activations():
    wide, narrow = (memory_estimate(of(dtype=dtype), 1000) for dtype in (torch.float32, torch.bfloat16))
    assert 2 * narrow["weights"] == wide["weights"]
    assert 2 * (narrow["fused"] - SLACK) == wide["fused"] - SLACK


def test_an_activation_that_is_written_out_holds_more():
    model = of("gpt2")
    model.hf.config.activation_function = "gelu_new"
    written = memory_estimate(model, 1000)["fused"]
    model.hf.config.activation_function = "gelu"
    inner = model.hf.transformer.h[0].mlp.c_fc.weight.shape[1]
    assert written - memory_estimate(model, 1000)["fused"] == 4 * 1000 * 3 * inner


def test_copies_of_the_hooked_view_count_once_it_is_there():
    model = of("gpt_neox")
    before = memory_estimate(model, 100)["hooked"]
    _ = model.bridge
    copies = [layer.attention.query_key_value for layer in model.hf.gpt_neox.layers]
    size = sum(4 * (part.weight.numel() + part.bias.numel()) for part in copies)
    assert memory_estimate(model, 100)["hooked"] - before == size


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_weights_on_disk_count_as_the_largest_of_them(family, tmp_path):
    folder = saved(tiny_model(family), tmp_path / "tiny")
    disk, whole = load_model(folder, dtype="float32", device_map={"": "disk"}), load_model(folder)
    largest = max(4 * parameter.numel() for parameter in whole.hf.parameters())
    for _ in range(2):
        found, all_of_it = memory_estimate(disk, 100), memory_estimate(whole, 100)
        assert found["weights"] == all_of_it["weights"]
        assert all_of_it["fused"] - found["fused"] == all_of_it["weights"] - largest
        assert "hooked" not in found
        # A pass parts tied weights.
        disk.answer_logits(torch.arange(5, 20)[None], torch.ones(1, 15, dtype=torch.bool))
