"""Laws of head slices: what a head's weights do when they are changed, and what they leave alone."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import transformers
from families import (
    FAMILIES,
    QUESTIONS,
    SUPPORTED,
    base,
    gpt_base,
    tiny_model,
    tiny_tokenizer,
    token_settings,
)
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from nasa_interp import ablation_effect, build_prompts, decide, load_model
from nasa_interp.errors import HeadError, ModelError
from nasa_interp.models.slices import (
    WeightSlice,
    attention_modules,
    group_of,
    head_layout,
    head_slices,
    norm_spans_heads,
)


def with_images() -> transformers.Gemma3Config:
    """Gemma 3 with an encoder of images that has as many layers as the text decoder."""
    vision = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    # A token of images beyond the vocabulary, so that no prompt of the tests holds it.
    return transformers.Gemma3Config(
        text_config=FAMILIES["gemma3_text"]().to_dict() | {"num_hidden_layers": 2, "layer_types": LAYER_KINDS},
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=600,
    )


LAYER_KINDS = ["sliding_attention", "full_attention"]

# Layouts of fused projections that no supported family of `FAMILIES` has, and a model with two lists of layers.
MORE_LAYOUTS: dict[str, Callable] = {
    "bloom": lambda: transformers.BloomConfig(
        **token_settings(), hidden_size=48, n_layer=2, n_head=4, initializer_range=0.3
    ),
    "falcon_interleaved": lambda: transformers.FalconConfig(**base(multi_query=False, alibi=False)),
    "gemma3_with_images": with_images,
    "gpt_bigcode": lambda: transformers.GPTBigCodeConfig(**gpt_base(multi_query=False)),
    "gpt_bigcode_multi_query": lambda: transformers.GPTBigCodeConfig(**gpt_base(multi_query=True)),
    "mpt": lambda: transformers.MptConfig(**token_settings(), d_model=48, n_layers=2, n_heads=4, initializer_range=0.3),
    "opt": lambda: transformers.OPTConfig(
        **base(ffn_dim=64, word_embed_proj_dim=48, init_std=0.3, dropout=0.0, do_layer_norm_before=True)
    ),
    "persimmon": lambda: transformers.PersimmonConfig(**base(intermediate_size=64, qk_layernorm=True)),
    "phi": lambda: transformers.PhiConfig(**base(intermediate_size=64, num_key_value_heads=2)),
}

LAYOUTS = (*SUPPORTED, "gpt_oss", *MORE_LAYOUTS)

LAYER = 1


def build(family: str) -> PreTrainedModel:
    if family in FAMILIES:
        return tiny_model(family)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(MORE_LAYOUTS[family](), dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@pytest.fixture(params=LAYOUTS)
def model(request) -> PreTrainedModel:
    return build(request.param)


class Seen(NamedTuple):
    """One layer in one run: each head's output, and keys and values as the cache keeps them, one per query head."""

    heads: Tensor  # batch pos head d_head
    keys: Tensor  # batch head pos d_head
    values: Tensor
    attention: Tensor  # batch pos d_model, after the output projection


@torch.no_grad()
def run(model: PreTrainedModel, layer: int = LAYER, keep: list[int] | None = None) -> Seen:
    """Run a fixed prompt; with `keep`, only the outputs of those heads reach the output projection."""
    layout = head_layout(model, layer)
    seen = {}

    def before_output(module, args):
        heads = args[0].unflatten(-1, (layout.heads, layout.d_head)).clone()
        seen["heads"] = heads.clone()
        if keep is not None:
            heads[:, :, [head for head in range(layout.heads) if head not in keep]] = 0
        return (heads.flatten(-2),)

    projection = getattr(layout.attention, layout.output)
    handles = [
        projection.register_forward_pre_hook(before_output),
        projection.register_forward_hook(lambda module, args, out: seen.update(attention=out.clone())),
    ]
    tokens = torch.randint(5, 600, (2, 24), generator=torch.Generator().manual_seed(3))
    cache = model(tokens, use_cache=True).past_key_values.layers[layer]
    for handle in handles:
        handle.remove()
    keys, values = (t.repeat_interleave(layout.heads // t.shape[1], dim=1) for t in (cache.keys, cache.values))
    return Seen(seen["heads"], keys, values, seen["attention"])


@torch.no_grad()
def change(model: PreTrainedModel, slices: list[WeightSlice], scale: float = 0.0, seed: int | None = 5):
    """Multiply the slices by `scale` and add noise from `seed` (None: no noise)."""
    for part in slices:
        parameter = model.get_parameter(part.parameter)
        index = torch.tensor(part.index)
        values = parameter.index_select(part.dim, index) * scale
        if seed is not None:
            values += 0.5 * torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))
        parameter.index_copy_(part.dim, index, values)


def changed(before: Tensor, after: Tensor, head_dim: int) -> set[int]:
    """Heads whose part of the tensor isn't the same bit for bit."""
    differs = (before != after).movedim(head_dim, 0).flatten(1).any(1)
    return set(differs.nonzero().flatten().tolist())


def close(before: Tensor, after: Tensor):
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * before.abs().max().item())


@pytest.mark.parametrize("head", [0, 2])
def test_zeroing_the_output_slice_removes_the_head(model, head):
    others = [other for other in range(head_layout(model, LAYER).heads) if other != head]
    without = run(model, keep=others).attention
    assert not torch.allclose(run(model).attention, without, atol=1e-3)
    change(model, head_slices(model, LAYER, head, "o"), seed=None)
    close(without, run(model).attention)


@pytest.mark.parametrize("head", [0, 3])
def test_the_query_slice_moves_its_own_head_alone(model, head):
    if norm_spans_heads(model, LAYER):
        pytest.skip("queries normed over all heads: see test_a_norm_over_all_heads_spreads_query_changes")
    before = run(model)
    change(model, head_slices(model, LAYER, head, "q", bias=True))
    after = run(model)
    assert changed(before.heads, after.heads, 2) == {head}
    assert torch.equal(before.keys, after.keys)
    assert torch.equal(before.values, after.values)


@pytest.mark.parametrize("head", [0, 3])
def test_the_key_slice_moves_its_group_alone(model, head):
    if norm_spans_heads(model, LAYER):
        pytest.skip("keys normed over all heads")
    before = run(model)
    change(model, head_slices(model, LAYER, head, "k", bias=True))
    after = run(model)
    group = set(group_of(model, LAYER, head))
    assert changed(before.keys, after.keys, 1) == group
    assert changed(before.heads, after.heads, 2) == group
    assert torch.equal(before.values, after.values)


@pytest.mark.parametrize("head", [0, 3])
def test_doubling_the_value_slice_doubles_its_group_alone(model, head):
    before = run(model)
    change(model, head_slices(model, LAYER, head, "v", bias=True), scale=2.0, seed=None)
    after = run(model)
    group = set(group_of(model, LAYER, head))
    assert changed(before.heads, after.heads, 2) == group
    close(2 * before.heads[:, :, sorted(group)], after.heads[:, :, sorted(group)])
    assert torch.equal(before.keys, after.keys)


def test_a_norm_over_all_heads_spreads_query_changes():
    model = tiny_model("olmo2")
    before = run(model)
    change(model, head_slices(model, LAYER, 0, "q"))
    assert changed(before.heads, run(model).heads, 2) == {0, 1, 2, 3}
    assert torch.equal(before.values, run(model).values)
    assert [family for family in SUPPORTED if norm_spans_heads(tiny_model(family), LAYER)] == ["olmo2"]


@pytest.mark.parametrize("bias", [False, True])
def test_slices_are_disjoint_and_cover_the_parameters(model, bias):
    for layer in range(len(attention_modules(model))):
        layout = head_layout(model, layer)
        taken: dict[str, list[int]] = {}
        dims = {}
        for head in range(layout.heads):
            first_of_group = head == group_of(model, layer, head)[0]
            for part in head_slices(model, layer, head, "qkvo" if first_of_group else "qo", bias):
                taken.setdefault(part.parameter, []).extend(part.index)
                dims[part.parameter] = part.dim
        for parameter, index in taken.items():
            assert sorted(index) == list(range(model.get_parameter(parameter).shape[dims[parameter]])), parameter
        modules = [getattr(layout.attention, layout.module(projection)) for projection in "qkv"]
        biases = {id(module) for module in modules if bias and module.bias is not None}
        assert sum(name.endswith(".bias") for name in taken) == len(biases)


def test_groups_partition_the_heads(model):
    for layer in range(len(attention_modules(model))):
        heads = range(head_layout(model, layer).heads)
        groups = [group_of(model, layer, head) for head in heads]
        assert sorted(head for group in set(groups) for head in group) == list(heads)
        assert all(head in groups[head] for head in heads)


@pytest.mark.parametrize(
    ("family", "groups"), [("gpt2", 4), ("gpt_neox", 4), ("llama", 2), ("falcon", 2), ("falcon_multi_query", 1)]
)
def test_groups_are_read_off_the_shapes(family, groups):
    assert head_layout(tiny_model(family), LAYER).groups == groups


def test_slices_by_hand():
    assert head_slices(tiny_model("gpt2"), 1, 2, "qo") == [
        WeightSlice("transformer.h.1.attn.c_attn.weight", 1, tuple(range(24, 36))),
        WeightSlice("transformer.h.1.attn.c_proj.weight", 0, tuple(range(24, 36))),
    ]
    assert head_slices(tiny_model("gpt_neox"), 0, 1, "qv", bias=True) == [
        WeightSlice("gpt_neox.layers.0.attention.query_key_value.weight", 0, tuple(range(36, 48))),
        WeightSlice("gpt_neox.layers.0.attention.query_key_value.bias", 0, tuple(range(36, 48))),
        WeightSlice("gpt_neox.layers.0.attention.query_key_value.weight", 0, tuple(range(60, 72))),
        WeightSlice("gpt_neox.layers.0.attention.query_key_value.bias", 0, tuple(range(60, 72))),
    ]
    # Falcon's rows: queries 0 and 1, key, value; queries 2 and 3, key, value; 12 rows each.
    assert head_slices(tiny_model("falcon"), 0, 3, "qk") == [
        WeightSlice("transformer.h.0.self_attention.query_key_value.weight", 0, tuple(range(60, 72))),
        WeightSlice("transformer.h.0.self_attention.query_key_value.weight", 0, tuple(range(72, 84))),
    ]


@pytest.mark.parametrize("first", ["vision_tower", "language_model"])
def test_the_heads_of_a_model_with_images_are_those_of_its_text_decoder(first):
    model = build("gemma3_with_images")
    parts = model.model._modules
    # Into its place before the others.
    for name in [name for name in parts if name != first]:
        parts[name] = parts.pop(name)
    assert next(iter(parts)) == first
    assert list(attention_modules(model)) == [f"model.language_model.layers.{n}.self_attn" for n in range(2)]
    assert head_slices(model, 1, 2, "q") == [
        WeightSlice("model.language_model.layers.1.self_attn.q_proj.weight", 0, tuple(range(32, 48)))
    ]


@pytest.mark.filterwarnings("ignore:answer mass under 0.5")
def test_a_model_with_images_answers_and_ablates_as_its_text_decoder_does():
    model = build("gemma3_with_images")
    wrapped = load_model(model, tokenizer=tiny_tokenizer())
    prompts = build_prompts(wrapped, QUESTIONS, "yes_no")
    with torch.no_grad():
        logits = [model(prompts.select([number]).tokens).logits[0, -1] for number in range(len(QUESTIONS))]
    alone = [(row[prompts.no_token] - row[prompts.yes_token]).item() for row in logits]
    assert decide(wrapped, QUESTIONS, "yes_no", progress=False).logit_differences == pytest.approx(alone, abs=1e-4)
    effect = ablation_effect(wrapped, QUESTIONS, ["1.2"], order="yes_no", progress=False)
    assert effect.base.logit_differences == pytest.approx(alone, abs=1e-4)
    change(model, head_slices(model, 1, 2, "o"), seed=None)
    without = decide(wrapped, QUESTIONS, "yes_no", progress=False).logit_differences
    assert effect.changed.logit_differences == pytest.approx(without, abs=1e-4)
    assert effect.changed.logit_differences != pytest.approx(alone, abs=1e-3)


@pytest.mark.parametrize(("family", "names"), [("t5", "encoder"), ("mamba", "MambaMixer.*in_proj.weight.*use a model")])
def test_models_without_heads_are_refused(family, names):
    with pytest.raises(ModelError, match=names):
        head_slices(tiny_model(family), 0, 0)


def test_projections_of_another_size_are_refused():
    model = tiny_model("llama")
    model.model.layers[1].self_attn.q_proj = torch.nn.Linear(48, 96)  # queries and gates, as Qwen 3.5 has them
    with pytest.raises(ModelError, match=r"self_attn \(LlamaAttention\).*q_proj.weight \(96, 48\)"):
        head_slices(model, 1, 0)


@pytest.mark.parametrize(("layer", "head"), [(2, 0), (-1, 0), (0, 4), (0, -1)])
def test_heads_that_are_not_there_are_refused(layer, head):
    with pytest.raises(HeadError, match=r"has (layers 0 to 1|heads 0 to 3)"):
        head_slices(tiny_model("llama"), layer, head)


def test_unknown_projections_are_refused():
    with pytest.raises(ModelError, match="'x'"):
        head_slices(tiny_model("llama"), 0, 0, "qx")


def test_the_tied_model_and_the_seed():
    first, second = (tiny_model("llama_tied", seed=seed) for seed in (0, 1))
    assert first.lm_head.weight is first.model.embed_tokens.weight
    assert not torch.equal(first.lm_head.weight, second.lm_head.weight)
