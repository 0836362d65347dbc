"""Laws of HeadDelta: it moves its slices only, and everything that it does can be undone to the last bit."""

import copy
import math

import families
import pytest
import torch
from safetensors.torch import load_file, save_file

from nasa_interp import load_model
from nasa_interp.deltas.delta import HeadDelta
from nasa_interp.errors import DeltaError, ModelError
from nasa_interp.heads import Head, HeadList
from nasa_interp.models import Model
from nasa_interp.models.bridge import build_bridge
from nasa_interp.models.slice_values import read_slices, write_slices
from nasa_interp.models.slices import WeightSlice, head_slices

HEADS = ("0.1", "1.2")
TOKENS = torch.arange(5, 25)[None]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh(family: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0) -> Model:
    hf = families.tiny_model(family, seed).to(dtype)
    hf.config.name_or_path = f"tiny/{family}"
    return load_model(hf, tokenizer=families.tiny_tokenizer())


def tuned(
    model: Model, heads=HEADS, projections: str = "qkvo", bias: bool = True, seed: int = 0, log=None
) -> HeadDelta:
    """The model with noise in the heads' slices, as a delta; the model is left as it was."""
    found = [head_slices(model.hf, *Head.parse(h).__dict__.values(), projections, bias) for h in heads]
    before = read_slices(model, dict.fromkeys(piece for pieces in found for piece in pieces))
    base_hash, generator = model.weights_hash(), torch.Generator().manual_seed(seed)
    noise = {piece: torch.randn(value.shape, generator=generator).to(value) for piece, value in before.items()}
    write_slices(model, {piece: value + 0.1 * noise[piece] for piece, value in before.items()})
    delta = HeadDelta.of(model, base_hash, heads, before, log)
    write_slices(model, before)
    return delta


def logits(model: Model) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(TOKENS).logits


@pytest.mark.parametrize("family", families.SUPPORTED)
def test_apply_moves_its_slices_only_and_revert_gives_the_base_bit_for_bit(family):
    model = fresh(family)
    base, before = model.weights_hash(), copy.deepcopy(model.hf.state_dict())
    delta = tuned(model)
    assert model.weights_hash() == base == delta.base_hash
    delta.apply(model)
    assert delta.is_applied(model)
    allowed = {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in before.items()}
    for piece in delta.slices:
        allowed[piece.parameter].movedim(piece.dim, 0)[list(piece.index)] = True
    moved = 0
    for name, value in model.hf.state_dict().items():
        differs = value != before[name]
        assert not (differs & ~allowed[name]).any(), name
        moved += int(differs.sum())
    assert moved == delta.n_changed > 0.99 * sum(int(mask.sum()) for mask in allowed.values())
    delta.revert(model)
    assert model.weights_hash() == base
    assert not delta.is_applied(model)


def test_a_head_s_query_rows_by_hand():
    """Heads of 12 dimensions: head 0.1 has rows 12 to 23."""
    model = fresh()
    with tuned(model, ["0.1"], "q", bias=False).applied(model):
        changed = model.hf.model.layers[0].self_attn.q_proj.weight.detach().clone()
    apart = (changed != model.hf.model.layers[0].self_attn.q_proj.weight).any(1).nonzero().flatten()
    assert apart.tolist() == list(range(12, 24))


def test_key_rows_belong_to_the_group():
    model = fresh()
    assert tuned(model, ["0.0"], "k").slices == tuned(model, ["0.1"], "k").slices
    assert tuned(model, ["0.0"], "q").slices != tuned(model, ["0.1"], "q").slices


def test_applied_reverts_at_the_end_also_after_an_error():
    model = fresh()
    delta, base = tuned(model), model.weights_hash()
    before = logits(model)
    with delta.applied(model) as inside:
        assert inside is model
        assert (logits(model) - before).abs().max() > 0.01
    assert model.weights_hash() == base

    def fail():
        with delta.applied(model):
            model.hf.model.layers[0].self_attn.q_proj.weight.data[12] += 1  # within the slices: undone too
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.weights_hash() == base
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "falcon"])
def test_the_hooked_view_follows(family):
    """Also a bridge that somebody already has, whose fused projection is a copy."""
    model = fresh(family)
    bridge, delta, before = model.bridge, tuned(model), logits(model)
    with torch.no_grad():
        delta.apply(model)
        expected = logits(model)
        assert (expected - before).abs().max() > 0.01
        assert torch.allclose(bridge(TOKENS), expected, atol=1e-4)
        assert torch.allclose(model.bridge(TOKENS), expected, atol=1e-4)
        delta.revert(model)
        assert torch.allclose(bridge(TOKENS), before, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saving_and_loading_is_exact(tmp_path, dtype):
    model = fresh(dtype=dtype)
    heads = HeadList.of(HEADS)
    heads = HeadList(heads.heads, (1.5, math.nan), "polarity", {"model": "tiny"})
    delta = tuned(model, heads, log={"rate": 3e-4, "loss": [0.5, math.nan], "where": tmp_path})
    found = HeadDelta.load(delta.save(tmp_path / "delta.safetensors"))
    assert found == delta
    assert found.slices == delta.slices
    assert found.before[0].dtype == dtype
    assert found.log == delta.log == {"rate": 3e-4, "loss": [0.5, None], "where": str(tmp_path)}
    assert (found.heads.heads, found.heads.by, found.heads.run) == (heads.heads, "polarity", {"model": "tiny"})
    assert found.heads.scores[0] == 1.5
    assert math.isnan(found.heads.scores[1])
    with found.applied(model):
        assert delta.is_applied(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled(dtype):
    model = fresh(dtype=dtype)
    delta, base = tuned(model), model.weights_hash()
    assert delta.scaled(1.0) == delta
    none = delta.scaled(0.0)
    assert none.n_changed == 0
    with none.applied(model):
        assert model.weights_hash() == base
    half = delta.scaled(0.5)
    for before, after, found in zip(delta.before, delta.after, half.after, strict=True):
        assert torch.equal(found, ((before.double() + after.double()) / 2).to(dtype))
    assert half.before[0] is delta.before[0]
    assert (half.log["scaled"], half.scaled(3).log["scaled"]) == (0.5, 1.5)
    with pytest.raises(DeltaError, match="finite"):
        delta.scaled(math.nan)


def test_scaling_by_zero_keeps_the_sign_of_zero():
    piece = WeightSlice("model.layers.0.self_attn.q_proj.weight", 0, (0,))
    delta = HeadDelta("", "m", HeadList.of(["0.0"]), (piece,), (torch.tensor([[-0.0]]),), (torch.tensor([[2.0]]),))
    assert math.copysign(1, float(delta.scaled(0).after[0])) == -1


def test_merging_disjoint_deltas_in_either_order():
    model = fresh()
    first, second = tuned(model, ["0.1"], "q"), tuned(model, ["1.2", "0.3"], "qo", seed=1)
    both = first.merge(second)
    assert both == second.merge(first) != first
    assert both.n_changed == first.n_changed + second.n_changed
    assert set(both.heads) == {Head(0, 1), Head(1, 2), Head(0, 3)}
    with both.applied(model):
        merged = model.weights_hash()
    with first.applied(model), second.applied(model, check=False):
        assert model.weights_hash() == merged
    assert model.weights_hash() == both.base_hash


def test_merging_what_overlaps_names_the_heads():
    model = fresh()
    first = tuned(model, ["0.1", "1.2"], "q")
    with pytest.raises(DeltaError, match=r"both deltas change head 1\.2 in model\.layers\.1\.self_attn\.q_proj"):
        first.merge(tuned(model, ["1.2", "1.3"], "q", seed=1))
    with pytest.raises(DeltaError, match=r"what heads 0\.0, 0\.1 share in model\.layers\.0\.self_attn\.k_proj"):
        tuned(model, ["0.0"], "k").merge(tuned(model, ["0.1"], "k", seed=1))
    with pytest.raises(DeltaError, match=r"'tiny/llama' \(\w{12}\) and 'tiny/phi3' \(\w{12}\)"):
        first.merge(tuned(fresh("phi3")))


def test_another_model_than_the_base_is_refused_and_left_alone():
    delta, base = tuned(fresh()), fresh()
    for other in (fresh("phi3"), fresh(seed=1)):
        before = other.weights_hash()
        expected = rf"made for 'tiny/llama' \({delta.base_hash[:12]}\), and this is '{other.name}' \({before[:12]}\)"
        with pytest.raises(DeltaError, match=expected) as error:
            delta.apply(other)
        assert "\n" not in str(error.value)
        with pytest.raises(DeltaError, match="not applied"):
            delta.revert(other)
        assert other.weights_hash() == before
    with torch.no_grad():
        base.hf.lm_head.weight[0, 0] += 1  # outside the slices: only the hash knows
    with pytest.raises(DeltaError, match="made for"):
        delta.apply(base)
    delta.apply(base, check=False)


def test_a_delta_is_applied_once_and_reverted_once():
    model = fresh()
    delta, other = tuned(model), tuned(model, ["0.3"], "q")
    with delta.applied(model):
        with pytest.raises(DeltaError, match="applied to model 'tiny/llama' already; revert"):
            delta.apply(model)
        with pytest.raises(DeltaError, match="revert what was changed in it"):
            other.apply(model)
    with pytest.raises(DeltaError, match="not applied to model 'tiny/llama'"):
        delta.revert(model)


def test_another_dtype_is_refused_with_the_right_one():
    with pytest.raises(DeltaError, match="load it with dtype='float32'"):
        tuned(fresh()).apply(fresh(dtype=torch.bfloat16))


def test_a_bridge_takes_the_delta_of_its_plain_model():
    delta, hf = tuned(fresh()), families.tiny_model("llama")
    hooked = load_model(build_bridge(hf, families.tiny_tokenizer(), "mine"))
    before = hooked.weights_hash()
    with delta.applied(hooked):
        assert delta.is_applied(hooked)
        assert hooked.weights_hash() != before
    assert hooked.weights_hash() == before


def test_a_processed_bridge_takes_no_delta_of_the_plain_model():
    delta, hf = tuned(fresh()), families.tiny_model("llama")
    bridge = build_bridge(hf, families.tiny_tokenizer(), "mine")
    bridge.enable_compatibility_mode(disable_warnings=True)
    processed = load_model(bridge)
    before = processed.weights_hash()
    with pytest.raises(DeltaError, match="the delta was made for"):
        delta.apply(processed)
    assert processed.weights_hash() == before


def test_offloaded_weights_are_refused():
    model, delta = fresh(), tuned(fresh())
    module = model.hf.model.layers[0].self_attn.q_proj
    module.weight = torch.nn.Parameter(module.weight.to("meta"))
    with pytest.raises(DeltaError, match="offloaded"):
        write_slices(model, dict(zip(delta.slices, delta.after, strict=True)))
    with pytest.raises(ModelError, match=r"a change of heads needs all weights of .* in memory, and 1 of them"):
        delta.apply(model)


def test_values_that_do_not_fit_are_refused_before_anything_is_written():
    model = fresh()
    values, before = read_slices(model, tuned(model, projections="q", bias=False).slices), model.weights_hash()
    first, second = values
    for wrong in (values[second][:3], values[second].double()):
        with pytest.raises(DeltaError, match="don't fit"):
            write_slices(model, {first: values[first] + 1, second: wrong})
    for lost in (WeightSlice("nowhere.weight", 0, (0,)), WeightSlice(first.parameter, 0, (4711,))):
        with pytest.raises(DeltaError, match="was the delta made for it"):
            read_slices(model, [lost])
    assert model.weights_hash() == before


def test_a_delta_that_makes_no_sense_is_refused():
    piece, values = WeightSlice("a.0.weight", 0, (0, 1)), (torch.zeros(2, 3),)
    columns, heads = WeightSlice("a.0.weight", 1, (0, 1)), HeadList.of(["0.0"])

    def make(slices, before, after):
        return HeadDelta("", "m", heads, slices, before, after)

    with pytest.raises(DeltaError, match="1 slices, 2 before"):
        make((piece,), values * 2, values)
    with pytest.raises(DeltaError, match=r"\(2, 3\) torch.float32 before and \(2, 4\)"):
        make((piece,), values, (torch.zeros(2, 4),))
    with pytest.raises(DeltaError, match="NaN"):
        make((piece,), values, (torch.full((2, 3), math.nan),))
    for other in (piece, columns, WeightSlice("a.0.weight", 0, (1, 2))):
        with pytest.raises(DeltaError, match=r"share entries of a\.0\.weight"):
            make((piece, other), values * 2, values * 2)


def test_a_damaged_file_is_refused(tmp_path):
    path = tuned(fresh()).save(tmp_path / "delta.safetensors")
    content = path.read_bytes()
    # Length of the header, a letter of the JSON text, the first and the last value.
    start = 8 + int.from_bytes(content[:8], "little")
    for place in (0, content.index(b"tiny"), start, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DeltaError, match=r"delta\.safetensors") as error:
            HeadDelta.load(path)
        assert "\n" not in str(error.value)
    for size in (0, 4, 100, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DeltaError, match="cut short"):
            HeadDelta.load(path)
    path.write_bytes(content)
    save_file(load_file(path), tmp_path / "other.safetensors")
    with pytest.raises(DeltaError, match="holds no delta"):
        HeadDelta.load(tmp_path / "other.safetensors")
    with pytest.raises(DeltaError, match="does not exist"):
        HeadDelta.load(tmp_path / "nowhere.safetensors")


def test_numbers_about_a_delta():
    model = fresh("llama_tied")
    delta = tuned(model, projections="q", bias=False)
    assert delta.n_changed == 2 * 12 * 48
    assert delta.share(model) == delta.n_changed / sum(p.numel() for p in set(model.hf.parameters()))
    frame = delta.to_dataframe()
    assert frame["first"].tolist() == [12, 24]
    assert frame["last"].tolist() == [23, 35]
    change = (delta.after[0] - delta.before[0]).norm() / delta.before[0].norm()
    assert frame.relative[0] == pytest.approx(float(change), rel=1e-5)
    assert "2 heads: 0.1, 1.2; 1,152 entries changed; base 'tiny/llama_tied'" in repr(delta)
    assert "<table" in delta._repr_html_()
