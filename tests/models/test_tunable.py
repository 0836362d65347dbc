"""Which slices may be tuned, and the hash over all that must not change."""

import families
import pytest
import torch

from nasa_interp import load_model
from nasa_interp.errors import HeadError, ModelError
from nasa_interp.models.slices import group_of
from nasa_interp.models.tunable import outside_hash, tunable_slices


def build(family: str):
    return load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())


def test_shared_keys_and_values_are_refused_with_the_siblings_named() -> None:
    model = build("llama")
    group = group_of(model.hf, 1, 0)
    assert len(group) > 1
    with pytest.raises(HeadError, match=r"1\.1"):
        tunable_slices(model, ["1.0"], "qk")
    assert tunable_slices(model, ["1.0"], "qk", share=True)
    whole_group = [(1, index) for index in group]
    # the group's key rows are there once, not once a head
    assert len(tunable_slices(model, whole_group, "k")) == 1


def test_heads_outside_no_heads_and_quantized_models_are_refused() -> None:
    model = build("llama")
    with pytest.raises(HeadError, match="outside"):
        tunable_slices(model, ["99.0"])
    with pytest.raises(HeadError, match="no heads"):
        tunable_slices(model, [])
    model.hf.config.quantization_config = {"bits": 4}
    with pytest.raises(ModelError, match="quantized"):
        tunable_slices(model, ["0.0"])


def test_a_change_outside_the_slices_changes_the_outside_hash() -> None:
    model = build("llama")
    slices = tunable_slices(model, ["1.0"])
    before = outside_hash(model.hf, slices)
    weight = model.hf.get_parameter(slices[0].parameter)
    with torch.no_grad():
        weight[slices[0].index[0]] += 1
        assert outside_hash(model.hf, slices) == before
        weight[(slices[0].index[-1] + 1) % len(weight)] += 1
    assert outside_hash(model.hf, slices) != before
