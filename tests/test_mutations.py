"""Broken on purpose, the laws fail: each test breaks one line of the code and calls the law that must notice."""

from collections.abc import Callable

import pytest
import test_families as laws
import test_slices
import torch
from families import LAYER_WINDOWS

from nasa_interp.attention import instrument, kernel
from nasa_interp.errors import ModelError
from nasa_interp.models import bridge, check
from nasa_interp.models.slices import HeadLayout
from nasa_interp.scoring import fused, hooked

NOTICED = (AssertionError, ModelError)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fails(law: Callable[[str], object], family: str) -> bool:
    """Whether the law notices; that it holds on the unbroken code is what test_families.py shows."""
    try:
        law(family)
    except NOTICED:
        return True
    return False


def swapped(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Heads 1 and 2 exchanged."""
    return tensor.index_select(dim, torch.tensor([0, 2, 1, 3]))


@pytest.mark.parametrize(
    "name",
    [
        "blocks.{}.attn.hook_scores",  # no such hook point
        "blocks.{}.attn.hook_pattern",  # right shape, wrong values
        "blocks.{}.hook_attn_scores",
    ],
)
def test_a_changed_hook_name(monkeypatch, name):
    monkeypatch.setattr(hooked, "scores_hook", name.format)
    assert fails(laws.law_hooked_scores, "llama")


def test_the_hooks_of_another_layer(monkeypatch):
    monkeypatch.setattr(hooked, "scores_hook", lambda layer: bridge.scores_hook(1 - layer))
    assert fails(laws.law_hooked_scores, "llama")


def test_a_pattern_hook_of_another_layer_is_noticed_by_the_check(monkeypatch):
    monkeypatch.setattr(check, "pattern_hook", lambda layer: bridge.pattern_hook(1 - layer))
    with pytest.raises(ModelError, match="off plain eager attention"):
        laws.law_hooked_scores("llama")


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
def test_a_dropped_mask(monkeypatch, family):
    mask = instrument._mask

    def dropped(*args, **kwargs):
        mask(*args, **kwargs)

    monkeypatch.setattr(instrument, "_mask", dropped)
    assert fails(laws.law_fused_scores, family)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_two_heads_swapped_in_the_fused_reading(monkeypatch, family):
    read = fused._score

    def swap(reading, inside):
        nas, counted = read(reading, inside)
        return swapped(nas, 1), counted

    monkeypatch.setattr(fused, "_score", swap)
    assert fails(laws.law_fused_scores, family)


def test_two_heads_swapped_in_the_hooked_reading(monkeypatch):
    read = hooked._read_candidates
    monkeypatch.setattr(hooked, "_read_candidates", lambda found, *rest: read(swapped(found, 1), *rest))
    assert fails(laws.law_hooked_scores, "llama")


def test_the_candidates_swapped(monkeypatch):
    score = hooked.negative_attention_score
    monkeypatch.setattr(hooked, "negative_attention_score", lambda yes, no, counted: score(no, yes, counted))
    assert fails(laws.law_hooked_scores, "llama")


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_window_off_by_one(monkeypatch, shift):
    windows = [window and window + shift for window in LAYER_WINDOWS["gemma3_text"]]
    monkeypatch.setattr(hooked, "attention_windows", lambda model: windows)
    assert fails(laws.law_hooked_scores, "gemma3_text")
    monkeypatch.setattr(check, "attention_windows", lambda model: windows)
    with pytest.raises(ModelError, match="masks other keys"):
        laws.law_hooked_scores("gemma3_text")


def test_a_log_sum_exp_that_is_off(monkeypatch):
    exact = kernel._with_log_sum_exp

    def shifted(inputs):
        output, lse = exact(inputs)
        return output, lse + 1e-3

    monkeypatch.setattr(kernel, "_with_log_sum_exp", shifted)
    assert fails(laws.law_fused_scores, "llama")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "falcon"])
@pytest.mark.parametrize("projection", ["q", "k", "v", "o"])
def test_a_slice_off_by_one(monkeypatch, family, projection):
    start = HeadLayout.start
    monkeypatch.setattr(HeadLayout, "start", lambda self, p, head: start(self, p, head) + (p == projection))
    law = {
        "q": test_slices.test_the_query_slice_moves_its_own_head_alone,
        "k": test_slices.test_the_key_slice_moves_its_group_alone,
        "v": test_slices.test_doubling_the_value_slice_doubles_its_group_alone,
        "o": test_slices.test_zeroing_the_output_slice_removes_the_head,
    }[projection]
    assert fails(lambda name: law(test_slices.build(name), 0), family)


@pytest.mark.parametrize("family", ["gpt_neox", "falcon"])
def test_copies_that_are_not_kept_in_step(monkeypatch, family):
    monkeypatch.setattr(bridge.Copies, "carry", lambda self: None)
    assert fails(laws.law_one_set_of_weights, family)


def test_a_bridge_with_weights_of_its_own(monkeypatch):
    monkeypatch.setattr(bridge, "eager_twin", laws.plain_eager)
    assert fails(laws.law_one_set_of_weights, "llama")


def test_weights_written_otherwise(monkeypatch):
    used = laws.used

    def touch(model):
        used(model)
        with torch.no_grad():
            next(model.hf.parameters()).mul_(1.001)

    monkeypatch.setattr(laws, "used", touch)
    assert all(fails(law, "llama") for law in (laws.law_names, laws.law_bytes, laws.law_left_alone))
