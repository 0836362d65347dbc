"""Laws of the instrumented attention, against plain transformers' eager attention on tiny random models."""

import copy
import math

import pytest
import torch
import transformers as tf
from torch import Tensor

from nasa_interp.attention import (
    NAME,
    AttentionInputs,
    CandidateAttention,
    CutEdges,
    ReplaceHeads,
    ScaleHeads,
    Spans,
    SwapEdges,
    attend,
    candidate_attention,
    instrumented,
)
from nasa_interp.errors import HeadError, ModelError

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA_LIKE = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
LOCAL_GLOBAL = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES = {
    "llama": lambda: tf.LlamaConfig(**LLAMA_LIKE),
    "mistral": lambda: tf.MistralConfig(**LLAMA_LIKE, sliding_window=6),
    "gemma3": lambda: tf.Gemma3TextConfig(**LLAMA_LIKE, head_dim=12, sliding_window=5, layer_types=LOCAL_GLOBAL),
    "gpt2": lambda: tf.GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**SMALL, intermediate_size=48, max_position_embeddings=64),
    "qwen3": lambda: tf.Qwen3Config(**LLAMA_LIKE, head_dim=16),
}
LENGTH, FIRST = 14, 8
SPANS = Spans(torch.tensor([[4, 5], [3, 5]]), torch.tensor([[6, 7], [6, 7]]))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads, by much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(family: str, implementation: str = "sdpa", dtype: torch.dtype = torch.float32) -> tf.PreTrainedModel:
    torch.manual_seed(0)
    config = FAMILIES[family]()
    config.initializer_range = 0.3  # scores far from uniform, so that wrong columns can't pass for right ones
    model = tf.AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    return model.to(dtype).eval()


def batch(padding: str) -> dict[str, Tensor]:
    tokens = torch.randint(0, 60, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    if padding == "left":
        mask[1, :3] = 0
    if padding == "right":
        mask[1, -3:] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}


def eager_reading(attention: Tensor, spans: Spans, first: int) -> CandidateAttention:
    """The same reading from attention matrices; what eager masks is exactly 0."""
    logs, seen = [], []
    for span in (spans.yes, spans.no):
        prompts = [attention[b, :, first:, start:end] for b, (start, end) in enumerate(span.tolist())]
        logs.append(torch.stack([prompt.mean(-1).log() for prompt in prompts]))
        seen.append(torch.stack([(prompt > 0).all(-1) for prompt in prompts]))
    return CandidateAttention(*logs, seen[0] & seen[1])


def nas(reading: CandidateAttention, counted: Tensor) -> Tensor:
    mass = reading.log_yes.exp() + reading.log_no.exp()
    return torch.where(counted, mass * (reading.log_no - reading.log_yes), 0.0).sum(-1)


def distance(reading: CandidateAttention, expected: CandidateAttention, counted: Tensor) -> float:
    pairs = ((reading.log_yes, expected.log_yes), (reading.log_no, expected.log_no))
    return max(float((ours.double() - theirs.double())[counted].abs().max().detach()) for ours, theirs in pairs)


def check_readings(readings: dict, attentions: tuple, real: Tensor, first: int = FIRST) -> int:
    """Every layer's readings against eager's matrices, at the real (not padded) queries [batch, query]; how many."""
    compared = 0
    assert sorted(readings) == list(range(len(attentions)))
    for layer, attention in enumerate(attentions):
        expected = eager_reading(attention, SPANS, first)
        counted, ours = real[:, None].bool() & expected.visible, readings[layer].visible.expand_as(expected.visible)
        assert torch.equal(ours & real[:, None].bool(), counted)
        assert torch.equal(readings[layer].log_yes.isnan(), ~ours)
        compared += int(counted.sum())
        if counted.any():
            assert distance(readings[layer], expected, counted) < 3e-5
    return compared


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_readings_match_eager(family: str, gradient: bool, padding: str) -> None:
    inputs, model = batch(padding), build(family)
    real = inputs["attention_mask"].bool()
    with torch.set_grad_enabled(gradient):
        expected = build(family, "eager")(**inputs, output_attentions=True)
        with instrumented(model, spans=SPANS, first_query=FIRST) as recording:
            logits = model(**inputs).logits
    assert (logits - expected.logits)[real].abs().max() < 2e-5
    assert check_readings(recording.readings, expected.attentions, real[:, FIRST:]) > 0


@pytest.mark.parametrize("suffix", [1, 6])
@pytest.mark.parametrize("family", FAMILIES)
def test_behind_a_cached_prefix(family: str, suffix: int) -> None:
    inputs, model = batch("right" if suffix > 3 else "none"), build(family)
    cut = LENGTH - suffix
    with torch.no_grad():
        expected = build(family, "eager")(**inputs, output_attentions=True)
        cache = tf.DynamicCache()
        model(inputs["input_ids"][:, :cut], past_key_values=cache)
        rest = {"input_ids": inputs["input_ids"][:, cut:], "position_ids": inputs["position_ids"][:, cut:]}
        with instrumented(model, spans=SPANS) as recording:
            logits = model(**rest, attention_mask=inputs["attention_mask"], past_key_values=cache).logits
    real = inputs["attention_mask"][:, cut:].bool()
    assert (logits - expected.logits[:, cut:])[real].abs().max() < 2e-5
    attentions = [attention[:, :, cut:] for attention in expected.attentions]
    compared = check_readings(recording.readings, tuple(attentions), real, first=0)
    assert (compared == 0) == (family == "mistral" and suffix == 1)  # its last query's window excludes the candidates


def test_window_hides_candidates_by_the_mask_alone() -> None:
    model = build("mistral")
    with torch.no_grad(), instrumented(model, spans=SPANS, first_query=FIRST) as recording:
        model(**batch("none"))
    # window 6: query i sees keys i-5 to i; the earlier candidate begins at 4 and 3
    assert recording.readings[0].visible[:, 0].tolist() == [[True, True] + [False] * 4, [True] + [False] * 5]


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_no_farther_from_fp32_than_eager_bf16(family: str, gradient: bool) -> None:
    inputs, low = batch("left"), build(family, dtype=torch.bfloat16)
    exact, eager = build(family, "eager"), build(family, "eager", torch.bfloat16)
    exact.load_state_dict(low.float().state_dict())
    low.to(torch.bfloat16)
    with torch.set_grad_enabled(gradient):
        wanted = exact(**inputs, output_attentions=True).attentions
        plain = eager(**inputs, output_attentions=True).attentions
        with instrumented(low, spans=SPANS, first_query=FIRST) as recording:
            logits = low(**inputs).logits
    assert logits.dtype == torch.bfloat16
    errors: dict[str, list[Tensor]] = {"ours": [], "eager": []}
    for layer, reading in recording.readings.items():
        assert reading.log_yes.dtype == torch.float32
        readings = (eager_reading(attention[layer].float(), SPANS, FIRST) for attention in (wanted, plain))
        expected, rounded = readings
        counted = expected.visible & reading.visible
        for kind, one in (("ours", reading), ("eager", rounded)):
            errors[kind].append((nas(one, counted) - nas(expected, counted)).abs().flatten())
    assert torch.cat(errors["ours"]).mean() <= 1.1 * torch.cat(errors["eager"]).mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_of_the_score_matches_eager(family: str) -> None:
    inputs, gradients = batch("left"), []
    for implementation in ("sdpa", "eager"):
        model = build(family, implementation)
        if implementation == "sdpa":
            with instrumented(model, spans=SPANS, first_query=FIRST) as recording:
                model(**inputs)
            readings = [recording.readings[layer] for layer in range(3)]
        else:
            attentions = model(**inputs, output_attentions=True).attentions
            readings = [eager_reading(attention.clamp_min(1e-30), SPANS, FIRST) for attention in attentions]
            visible = [eager_reading(attention, SPANS, FIRST).visible for attention in attentions]
        if implementation == "sdpa":
            visible = [reading.visible for reading in readings]
        sum(nas(reading, seen).sum() for reading, seen in zip(readings, visible, strict=True)).backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    ours, eager = gradients
    scale = max(float(gradient.abs().max()) for gradient in eager.values() if gradient is not None)
    assert scale > 1e-3
    for name, gradient in eager.items():
        if gradient is not None:
            assert (ours[name] - gradient).abs().max() < 1e-5 * scale, name


# Tensors alone ------------------------------------------------------------------------------------------------------


def random_inputs(masked: bool = False, d_value: int = 8, size: float = 1.0) -> AttentionInputs:
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(2, 12, 6, 8, generator=generator).transpose(1, 2) * size
    key = torch.randn(2, 2, 8, 12, generator=generator).mT  # the last dimension isn't dense
    value = torch.randn(2, 2, 12, d_value, generator=generator)
    mask = torch.ones(12, 12, dtype=torch.bool).tril()[None, None].repeat(2, 1, 1, 1) if masked else None
    if mask is not None:
        mask[0, :, :, :2] = False
    return AttentionInputs(query, key, value, mask, mask is None, 0.4)


def patterns(inputs: AttentionInputs, dtype: torch.dtype = torch.float32) -> Tensor:
    scores = inputs.query.to(dtype) @ inputs.key.repeat_interleave(3, 1).mT.to(dtype) * inputs.scaling
    return scores.masked_fill(~inputs.row_mask(0), -math.inf).softmax(-1).nan_to_num()


def through(pattern: Tensor, inputs: AttentionInputs) -> Tensor:
    return (pattern @ inputs.value.repeat_interleave(3, 1)).transpose(1, 2)


TWO = Spans(torch.tensor([[3, 5], [1, 2]]), torch.tensor([[7, 8], [4, 6]]))  # unequal token counts
ONE = Spans(torch.tensor([[3, 5], [1, 2]]), torch.tensor([[6, 8], [4, 5]]))  # equal ones


def with_gradient(inputs: AttentionInputs) -> AttentionInputs:
    tensors = (tensor.clone().requires_grad_() for tensor in (inputs.query, inputs.key, inputs.value))
    return AttentionInputs(*tensors, inputs.mask, inputs.causal, inputs.scaling)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("d_value", [8, 5, 11])
def test_tensors_match_a_written_out_softmax(masked: bool, gradient: bool, d_value: int) -> None:
    inputs = random_inputs(masked, d_value)
    output, reading = attend(with_gradient(inputs) if gradient else inputs, TWO)
    assert reading is not None
    expected = eager_reading(patterns(inputs), TWO, 0)
    assert torch.equal(reading.visible.expand_as(expected.visible), expected.visible)
    assert distance(reading, expected, expected.visible) < 2e-6
    assert (output - through(patterns(inputs), inputs)).abs().max() < 2e-6
    assert (attend(inputs)[0] - output).abs().max() < 2e-6


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("spans", [ONE, TWO])
@pytest.mark.parametrize("masked", [False, True])
def test_swapped_spans_swap_the_logs_bit_for_bit(gradient: bool, spans: Spans, masked: bool) -> None:
    inputs = with_gradient(random_inputs(masked)) if gradient else random_inputs(masked)
    _, there = candidate_attention(inputs, spans)
    _, back = candidate_attention(inputs, Spans(spans.no, spans.yes))
    assert torch.equal(nas(there, there.visible), -nas(back, back.visible))
    assert nas(there, there.visible).abs().min() > 1e-6
    for one, other in ((there.log_yes, back.log_no), (there.log_no, back.log_yes)):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


@pytest.mark.parametrize("gradient", [False, True])
def test_extreme_scores_keep_the_ratio(gradient: bool) -> None:
    inputs = random_inputs(size=60.0)
    exact = eager_reading(patterns(inputs, torch.float64).clamp_min(1e-300), ONE, 0)
    used = with_gradient(inputs) if gradient else inputs
    _, reading = candidate_attention(used, ONE)
    seen = reading.visible.expand_as(exact.visible)
    assert exact.log_yes[seen].min() < -200  # where fp32 attention is 0
    ours, theirs = reading.log_no - reading.log_yes, exact.log_no - exact.log_yes
    assert (ours - theirs)[seen].abs().max() < 2e-4
    if gradient:
        nas(reading, seen).sum().backward()
        assert used.query.grad is not None
        assert used.query.grad.isfinite().all()
    else:
        assert distance(reading, exact, seen) < 2e-4


def test_first_query_reads_the_tail_of_the_whole() -> None:
    whole, tail = (candidate_attention(random_inputs(True), TWO, first)[1] for first in (0, 9))
    assert torch.equal(whole.log_yes[:, :, 9:], tail.log_yes)
    assert torch.equal(whole.log_no[:, :, 9:], tail.log_no)


COLUMNS = torch.zeros(2, 12, dtype=torch.bool)
COLUMNS[0, 3:5], COLUMNS[1, 1], COLUMNS[1, 4:6] = True, True, True
LATE = torch.zeros(2, 12, dtype=torch.bool)
LATE[0, 9:], LATE[1, 7:11] = True, True
VALUES = torch.randn(2, 12, 2, 8, generator=torch.Generator().manual_seed(3))


def cut(pattern: Tensor, renormalize: bool) -> Tensor:
    left = pattern.masked_fill(COLUMNS[:, None, None], 0)
    return (left / left.sum(-1, keepdim=True)).nan_to_num() if renormalize else left


def swap(pattern: Tensor, spans: Spans) -> Tensor:
    new = pattern.clone()
    for b, ((ys, ye), (ns, ne)) in enumerate(zip(spans.yes.tolist(), spans.no.tolist(), strict=True)):
        yes, no = pattern[b, :, :, ys:ye], pattern[b, :, :, ns:ne]
        both = torch.arange(12)[:, None] >= max(ye, ne) - 1
        if ye - ys != ne - ns:
            yes, no = yes.mean(-1, keepdim=True), no.mean(-1, keepdim=True)
        new[b, :, :, ys:ye] = torch.where(both, no, new[b, :, :, ys:ye])
        new[b, :, :, ns:ne] = torch.where(both, yes, new[b, :, :, ns:ne])
    return new


EDITS = {
    "scale": (lambda q: ScaleHeads((4, 1), torch.tensor([0.0, -1.5]), q), None),
    "replace": (lambda q: ReplaceHeads((4, 1), VALUES, q), None),
    "cut": (lambda q: CutEdges((4, 1), COLUMNS, q, renormalize=True), lambda pattern: cut(pattern, True)),
    "cut, lost": (lambda q: CutEdges((4, 1), COLUMNS, q, renormalize=False), lambda pattern: cut(pattern, False)),
    "swap": (lambda q: SwapEdges((4, 1), ONE, q), lambda pattern: swap(pattern, ONE)),
    "swap of unequal": (lambda q: SwapEdges((4, 1), TWO, q), lambda pattern: swap(pattern, TWO)),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("queries", [None, LATE], ids=["all", "late"])
@pytest.mark.parametrize("name", EDITS)
def test_edits_match_their_written_out_twins(name: str, queries: Tensor | None, masked: bool) -> None:
    inputs, (edit, rewrite) = random_inputs(masked), EDITS[name]
    plain = through(patterns(inputs), inputs)
    if rewrite is not None:
        new = through(rewrite(patterns(inputs)), inputs)
    else:
        new = plain.clone()
        new[:, :, [4, 1]] = VALUES if name == "replace" else plain[:, :, [4, 1]] * torch.tensor([0.0, -1.5])[:, None]
    expected = plain.clone()
    marked = torch.ones(2, 12, dtype=torch.bool) if queries is None else queries
    expected[:, :, [4, 1]] = torch.where(marked[..., None, None], new[:, :, [4, 1]], plain[:, :, [4, 1]])
    output, reading = attend(inputs, TWO, edits=[edit(queries)])
    assert (expected - plain).abs().max() > 0.1
    assert (output - expected).abs().max() < 5e-6
    untouched = [0, 2, 3, 5]
    assert torch.equal(output[:, :, untouched], attend(inputs, TWO)[0][:, :, untouched])
    assert reading is not None
    before = attend(inputs, TWO)[1].visible.expand(2, 6, 12)
    hidden = before & ~reading.visible.expand(2, 6, 12)
    assert not hidden[:, untouched].any()
    assert torch.equal(hidden[:, 4], before[:, 4] & marked & (rewrite is not None))
    assert reading.log_yes[hidden].isnan().all()


NOWHERE = torch.zeros(2, 12, dtype=torch.bool)


@pytest.mark.parametrize("name", EDITS)
def test_edits_of_nothing_change_nothing(name: str) -> None:
    inputs = random_inputs()
    output, reading = attend(inputs, TWO)
    unchanged, same = attend(inputs, TWO, edits=[EDITS[name][0](NOWHERE)])
    assert torch.equal(unchanged, output)
    assert reading is not None
    assert same is not None
    assert torch.equal(same.visible.expand_as(same.log_yes), reading.visible.expand_as(reading.log_yes))


def test_edits_apply_in_their_order_and_neutral_ones_keep_the_bits() -> None:
    inputs = random_inputs()
    output = attend(inputs)[0]
    neutral = [ScaleHeads((0, 5), torch.ones(2)), ReplaceHeads((2,), output[:, :, [2]])]
    assert torch.equal(attend(inputs, edits=neutral)[0], output)
    replaced = ReplaceHeads((4, 1), VALUES)
    zeroed = attend(inputs, edits=[replaced, ScaleHeads((4,), torch.zeros(1))])[0]
    assert (zeroed[:, :, 4] == 0).all()
    assert torch.equal(zeroed[:, :, 1], VALUES[:, :, 1])
    assert torch.equal(attend(inputs, edits=[ScaleHeads((4,), torch.zeros(1)), replaced])[0][:, :, 4], VALUES[:, :, 0])


def test_a_query_with_every_key_cut_puts_out_zero() -> None:
    everything = CutEdges((3,), torch.ones(2, 12, dtype=torch.bool), LATE)
    output = attend(random_inputs(), edits=[everything])[0]
    assert (output[:, :, 3][LATE] == 0).all()
    assert (output[:, :, 3][~LATE] != 0).any()


# In the model -------------------------------------------------------------------------------------------------------


def test_removed_head_is_a_zeroed_output_projection() -> None:
    model, inputs = build("llama"), batch("left")
    other = copy.deepcopy(model)
    other.model.layers[1].self_attn.o_proj.weight.data[:, 8:16] = 0
    with torch.no_grad():
        with instrumented(model, edits={1: [ScaleHeads((1,), torch.zeros(1))]}, outputs_of=[0, 1]) as recording:
            logits = model(**inputs).logits
        assert (logits - other(**inputs).logits).abs().max() < 1e-5 < (logits - model(**inputs).logits).abs().max()
    assert not recording.readings
    assert sorted(recording.outputs) == [0, 1]
    assert (recording.outputs[1][:, :, 1] == 0).all()
    assert (recording.outputs[1][:, :, 0] != 0).any()


def test_factors_of_each_row_make_the_rows_variants() -> None:
    inputs = random_inputs()
    factors = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    together = attend(inputs, edits=[ScaleHeads((4, 1), factors)])[0]
    for row in range(2):
        alone = attend(inputs, edits=[ScaleHeads((4, 1), factors[row])])[0]
        assert torch.equal(together[row], alone[row])
    assert not torch.equal(together[0], attend(inputs, edits=[ScaleHeads((4, 1), factors[1])])[0][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_only_reading_reads_the_same_and_ends_the_block(family: str) -> None:
    model, inputs = build(family), batch("left")
    logits = None
    with torch.no_grad():
        with instrumented(model, spans=SPANS, first_query=FIRST) as whole:
            model(**inputs)
        with instrumented(model, spans=SPANS, first_query=FIRST, only_read=True) as read:
            logits = model(**inputs).logits
    assert logits is None
    for layer, reading in whole.readings.items():
        assert torch.equal(read.readings[layer].log_yes.nan_to_num(), reading.log_yes.nan_to_num())
        assert torch.equal(read.readings[layer].log_no.nan_to_num(), reading.log_no.nan_to_num())


def test_only_the_named_layers_must_run() -> None:
    with pytest.raises(ModelError, match=r"layer 0 .* fired 1 times, expected 0"):
        run(build("llama"), layers=[1, 2])
    with pytest.raises(ModelError, match=r"Layers \[0\] have no attention that runs"):
        run(build("llama"), layers=[1, 2], edits={0: []})


@pytest.mark.parametrize("family", FAMILIES)
def test_patching_a_run_with_itself_changes_nothing(family: str) -> None:
    model, inputs = build(family), batch("left")
    with torch.no_grad():
        with instrumented(model, outputs_of=range(3)) as recording:
            logits = model(**inputs).logits
        own = {layer: [ReplaceHeads((2, 0), output[:, :, [2, 0]])] for layer, output in recording.outputs.items()}
        with instrumented(model, edits=own):
            assert torch.equal(model(**inputs).logits, logits)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("raises", [False, True])
def test_the_model_is_as_before(implementation: str, raises: bool) -> None:
    model, inputs = build("gemma3", implementation), batch("left")
    config = copy.deepcopy(vars(model.config))
    state = {name: dict(vars(part)) for name, part in model.named_modules()}
    with torch.no_grad():
        before = model(**inputs).logits
        try:
            with instrumented(model, spans=SPANS, edits={0: [ScaleHeads((1,), torch.zeros(1))]}):
                model(**inputs)
                if raises:
                    raise KeyError("the body's own")
        except KeyError:
            assert raises
        assert torch.equal(model(**inputs).logits, before)
    assert vars(model.config) == config
    assert {name: dict(vars(part)) for name, part in model.named_modules()} == state
    with torch.no_grad(), instrumented(model):  # and free for the next
        model(**inputs)


# Refusals -----------------------------------------------------------------------------------------------------------


def run(model: tf.PreTrainedModel, times: int = 1, inputs: dict | None = None, **options: object) -> None:
    with torch.no_grad(), instrumented(model, **options):
        for _ in range(times):
            model(**(inputs or batch("none")))


def test_another_number_of_firings_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"layer 0 .* fired 2 times, expected 1"):
        run(build("llama"), times=2)
    with pytest.raises(ModelError, match=r"layers \[0, 1, 2\] of Llama.* fired 0 times"):
        run(build("llama"), times=0)
    short = build("llama")
    short.model.layers = short.model.layers[:2]
    with pytest.raises(ModelError, match=r"layers \[2\] of Llama.* fired 0 times, expected 1;"):
        run(short)


def test_attention_outside_the_interface_is_refused() -> None:
    bloom = tf.BloomForCausalLM(tf.BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4)).eval()
    with pytest.raises(ModelError, match=r"fired 0 times|doesn't support fused"):
        run(bloom, inputs={"input_ids": batch("none")["input_ids"]})


@pytest.mark.parametrize("config", [
    tf.Gemma2Config(**LLAMA_LIKE, head_dim=8),
    tf.GptOssConfig(**LLAMA_LIKE, head_dim=8, num_local_experts=2, num_experts_per_tok=1,
                    rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
])  # fmt: skip
def test_soft_caps_and_sinks_are_refused(config: tf.PreTrainedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with pytest.raises(ModelError, match="doesn't support fused"):
        run(model)
    monkeypatch.setattr(type(model), "_supports_sdpa", True)
    with pytest.raises(ModelError, match=r"softcap|s_aux"):
        run(model)


@pytest.mark.parametrize("extra", [{"position_bias": torch.zeros(1)}, {"sinks": torch.zeros(4)}, {"softcap": 30.0},
                                   {"alibi": torch.zeros(1)}, {"indices": torch.zeros(1)}])  # fmt: skip
def test_unknown_terms_of_the_scores_are_refused(extra: dict) -> None:
    with pytest.raises(ModelError, match=next(iter(extra))):
        run(build("llama"), inputs={**batch("none"), **extra})


def test_dropout_float_masks_and_bad_spans_are_refused() -> None:
    dropping = build("gpt2").train()
    with pytest.raises(ModelError, match=r"model\.eval"):
        run(dropping)
    mask = torch.zeros(2, 1, LENGTH, LENGTH)
    with pytest.raises(ModelError, match=r"torch\.float32 mask"):
        run(build("llama"), inputs={**batch("none"), "attention_mask": mask})
    for bad in ([[4, 4], [3, 5]], [[4, 5], [13, 15]], [[-1, 1], [3, 5]]):
        with pytest.raises(ModelError, match="candidate span"):
            run(build("llama"), spans=Spans(torch.tensor(bad), SPANS.no))


def test_heads_and_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ModelError, match=r"Layers \[3\]"):
        run(build("llama"), edits={3: []})
    with pytest.raises(HeadError, match=r"heads \[4\].*0 to 3"):
        run(build("llama"), edits={1: [ScaleHeads((0, 4), torch.zeros(2))]})
    columns = torch.zeros(2, LENGTH, dtype=torch.bool)
    with pytest.raises(HeadError, match="one edge edit"):
        run(build("llama"), edits={1: [CutEdges((0,), columns), SwapEdges((1, 0), SPANS)]})


def test_a_sliding_cache_that_dropped_keys_is_refused() -> None:
    model, inputs = build("mistral"), batch("none")
    cache = tf.DynamicCache(config=model.config)
    with torch.no_grad():
        model(inputs["input_ids"][:, :10], past_key_values=cache)
        rest = {"input_ids": inputs["input_ids"][:, 10:], "past_key_values": cache}
        with pytest.raises(ModelError, match="full-length"):
            run(model, inputs=rest, spans=SPANS)


def test_instrumenting_twice_at_once_is_refused() -> None:
    with pytest.raises(ModelError, match="already"), instrumented(build("llama")):
        run(build("gpt2"))


def test_a_missing_mask_function_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.AttentionMaskInterface, "register", lambda *_: None)
    monkeypatch.delitem(tf.AttentionMaskInterface._global_mapping, NAME, raising=False)
    with pytest.raises(ModelError, match="no mask function"):
        run(build("llama"), inputs=batch("left"))


def test_left_behind_the_attention_refuses_to_run() -> None:
    run(build("llama"))
    model = build("llama")
    model.set_attn_implementation(NAME)
    with pytest.raises(ModelError, match="only inside instrumented"):
        model(**batch("none"))
