"""Direct logit attribution: the parts sum to d, each is what it says, and what isn't linear is refused."""

import families
import numpy as np
import pytest
import torch
from torch import nn

from nasa_interp import load_model
from nasa_interp.attribution import DirectLogitAttribution, direct_logit_attribution
from nasa_interp.attribution.norms import freeze_norm
from nasa_interp.errors import ModelError, ResultError
from nasa_interp.prompts import build_prompts


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", families.SUPPORTED)
def test_heads_and_parts_sum_to_the_logit_difference(family: str) -> None:
    model = load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())
    prompts = build_prompts(model, families.QUESTIONS)
    found = direct_logit_attribution(model, prompts)
    assert np.abs(found.total - found.d).max() < 1e-3
    assert np.abs(found.rows).mean(0).min() > 1e-4
    logits = model.answer_logits(prompts.tokens, prompts.mask)
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is not None:
        logits = cap * torch.atanh(logits / cap)
        assert any("soft cap" in note for note in found.run.notes)
    expected = (logits[:, prompts.no_token] - logits[:, prompts.yes_token]).numpy()
    np.testing.assert_allclose(found.d, expected, atol=1e-3)


def by_hand(model, prompts) -> tuple[np.ndarray, np.ndarray]:
    """Heads and embedding of a Llama, from its weights: output slice times output projection, over the final scale."""
    hf = model.hf
    kept: dict[int, torch.Tensor] = {}
    layers = hf.model.layers
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda m, inputs, n=n: kept.__setitem__(n, inputs[0]))
        for n, layer in enumerate(layers)
    ]
    end, rows = prompts.last_pos, torch.arange(len(prompts))
    final: list[torch.Tensor] = []
    handles.append(hf.model.norm.register_forward_pre_hook(lambda m, inputs: final.append(inputs[0])))
    with torch.no_grad():
        hf(prompts.tokens)
        for handle in handles:
            handle.remove()
        scale = (final[0][rows, end].square().mean(-1) + hf.config.rms_norm_eps).rsqrt()
        unembed = hf.lm_head.weight[prompts.no_token] - hf.lm_head.weight[prompts.yes_token]
        direction = hf.model.norm.weight * unembed
        heads = []
        for n, layer in enumerate(layers):
            z = kept[n][rows, end].unflatten(-1, (model.n_heads, -1))
            output = layer.self_attn.o_proj.weight.unflatten(1, (model.n_heads, -1))
            heads.append(torch.einsum("bhd,ohd,o->bh", z, output, direction) * scale[:, None])
        embedding = hf.model.embed_tokens(prompts.tokens)[rows, end] @ direction * scale
    return torch.stack(heads, 1).numpy(), embedding.numpy()


def test_each_part_is_what_it_is_computed_to_be_by_hand(tiny, questions) -> None:
    prompts = build_prompts(tiny, questions)
    heads, embedding = by_hand(tiny, prompts)
    found = direct_logit_attribution(tiny, prompts)
    np.testing.assert_allclose(found.rows, heads, atol=1e-5)
    np.testing.assert_allclose(found.parts["embedding"], embedding, atol=1e-5)
    assert list(found.parts) == ["embedding", "attention bias 0", "mlp 0", "attention bias 1", "mlp 1"]


def test_the_demo_model_sums_up_and_is_as_it_is_by_hand(demo, questions) -> None:
    prompts = build_prompts(demo, questions[:3])
    found = direct_logit_attribution(demo, prompts)
    assert np.abs(found.total - found.d).max() < 1e-3
    heads, embedding = by_hand(demo, prompts)
    np.testing.assert_allclose(found.rows, heads, atol=1e-3)
    np.testing.assert_allclose(found.parts["embedding"], embedding, atol=1e-3)


class Crooked(nn.Module):
    """Called a norm, but it isn't linear in its input whatever is held fixed."""

    def forward(self, x):
        return torch.tanh(x)


def test_what_is_no_norm_is_refused() -> None:
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match="Crooked isn't a norm"):
        freeze_norm(Crooked(), x, torch.tanh(x))


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.LayerNorm(7), nn.RMSNorm(8), nn.LayerNorm(8, bias=False)])
def test_a_frozen_norm_gives_the_same_and_scales_with_its_input(norm: nn.Module) -> None:
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.linspace(-1, 2, len(parameter)))
    x = torch.randn(3, *norm.normalized_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    frozen, bias = freeze_norm(norm, x, norm(x))
    torch.testing.assert_close(frozen, norm(x))
    (gradient,) = torch.autograd.grad(frozen.sum(), x)
    # Linear in x but for the bias: the value is the gradient's product with x.
    torch.testing.assert_close((gradient * x).sum(), (frozen - bias).sum())
    assert bias.abs().sum() == (norm.bias.abs().sum() if getattr(norm, "bias", None) is not None else 0)


def test_a_residual_stream_that_is_bent_on_the_way_is_refused(questions) -> None:
    model = load_model(families.tiny_model("llama"), tokenizer=families.tiny_tokenizer())
    layer = model.hf.model.layers[1]
    handle = layer.register_forward_hook(lambda module, inputs, output: output * output.abs())
    with pytest.raises(ModelError, match="besides additions and norms"):
        direct_logit_attribution(model, build_prompts(model, questions))
    handle.remove()


def test_two_mlps_in_a_layer_are_refused(questions) -> None:
    model = load_model(families.tiny_model("llama"), tokenizer=families.tiny_tokenizer())
    model.hf.model.layers[0].adapter = nn.Linear(2, 2)
    with pytest.raises(ModelError, match="LlamaMLP, Linear"):
        direct_logit_attribution(model, build_prompts(model, questions))


def test_the_model_is_left_as_it_was_also_when_it_raises(questions, monkeypatch) -> None:
    model = load_model(families.tiny_model("gpt2"), tokenizer=families.tiny_tokenizer())
    tokens, weights = torch.arange(5, 25)[None], model.weights_hash()
    with torch.no_grad():
        before = model.hf(tokens).logits
    wanted = [parameter.requires_grad for parameter in model.hf.parameters()]

    def unchanged() -> bool:
        hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.hf.modules())
        with torch.no_grad():
            same = torch.equal(model.hf(tokens).logits, before)
        return hooks == 0 and same and [p.requires_grad for p in model.hf.parameters()] == wanted

    direct_logit_attribution(model, questions)
    assert unchanged()
    monkeypatch.setattr("torch.autograd.grad", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        direct_logit_attribution(model, questions)
    assert unchanged()
    assert model.weights_hash() == weights


def test_value_ranks_saves_and_loads(tiny, questions, tmp_path) -> None:
    found = direct_logit_attribution(tiny, questions, draws=50)
    top = found.top(2)
    assert top.by == "direct attribution"
    assert list(top.scores) == sorted(found.values.ravel(), reverse=True)[:2]
    again = DirectLogitAttribution.load(found.save(tmp_path / "direct.json"))
    assert np.array_equal(again.rows, found.rows)
    assert np.array_equal(again.d, found.d)
    assert again.parts.keys() == found.parts.keys()
    assert all(np.array_equal(again.parts[name], found.parts[name]) for name in found.parts)
    assert again.run == found.run
    (tmp_path / "direct.json.safetensors").unlink()
    with pytest.raises(ResultError, match=r"direct\.json\.safetensors is missing"):
        DirectLogitAttribution.load(tmp_path / "direct.json")
    with pytest.raises(ResultError, match="does not hold"):
        DirectLogitAttribution.load((tmp_path / "other.json").write_text("[]") and tmp_path / "other.json")


def test_the_planted_head_comes_first() -> None:
    from planted import PLANTED, planted_model

    found = direct_logit_attribution(planted_model(), list(families.QUESTIONS)).top(2)
    assert found[0] == PLANTED
    assert found.scores[0] > 3 * abs(found.scores[1])
