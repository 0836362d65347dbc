"""A HookedTransformer that the user made, as TransformerLens 3 still has it; run by `make legacy`."""

import math

import numpy as np
import pytest
import torch

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import (
        convert_gpt2_weights,
        convert_llama_weights,
        convert_neox_weights,
    )
except ImportError:
    pytest.skip("this TransformerLens has no HookedTransformer; run make legacy", allow_module_level=True)

from families import QUESTIONS, tiny_model, tiny_tokenizer
from transformers import AutoTokenizer

from nasa_interp import decide, load_model, load_questions, score_heads
from nasa_interp.alignment import Recipe
from nasa_interp.alignment.trainer import Trainer
from nasa_interp.alignment.tuned import TunedSlices
from nasa_interp.attribution import direct_logit_attribution, estimate_zero_ablation
from nasa_interp.deltas import HeadDelta, export
from nasa_interp.doctor import diagnose
from nasa_interp.errors import DeltaError, ModelError
from nasa_interp.heads import HeadList
from nasa_interp.interventions import Knockout, Mean, Swap, Zero, ablation_effect, sweep_heads
from nasa_interp.models.slice_values import read_slices, write_slices
from nasa_interp.models.tunable import outside_hash, tunable_slices
from nasa_interp.patching import patch_heads
from nasa_interp.prompts import ORDERS, build_prompts
from nasa_interp.prompts.pairs import instruction_pairs
from nasa_interp.scoring.hooked import score_hooked
from nasa_interp.session import resolve_prompts

# TransformerLens 3.9 announces the end of the class that is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:answer mass"),
    pytest.mark.filterwarnings("ignore:scored with the hooked engine"),
]

DEMO_HEADS = ["17.7", "22.8", "21.6"]

CONFIGS = {
    "learned positions": {"positional_embedding_type": "standard", "normalization_type": "LN", "act_fn": "gelu"},
    "rotary, grouped": {
        "positional_embedding_type": "rotary",
        "rotary_dim": 12,
        "normalization_type": "RMS",
        "act_fn": "silu",
        "gated_mlp": True,
        "n_key_value_heads": 2,
    },
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=CONFIGS)
def hooked(request, tmp_path):
    """A tiny random HookedTransformer with wide weights, so that attention is far from uniform."""
    tiny_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)  # it must know its folder: TransformerLens loads it again
    config = HookedTransformerConfig(
        n_layers=2, d_model=48, n_ctx=256, d_head=12, n_heads=4, d_mlp=64, d_vocab=len(tokenizer),
        device="cpu", seed=0, initializer_range=0.3, **CONFIGS[request.param],
    )  # fmt: skip
    return HookedTransformer(config, tokenizer=tokenizer)


def looped(hooked, prompts) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and their absolute terms from the patterns of `run_with_cache`, one prompt at a time without padding."""
    scores = torch.zeros(len(prompts), hooked.cfg.n_layers, hooked.cfg.n_heads)
    sizes = torch.zeros_like(scores)
    for prompt in range(len(prompts)):
        last = int(prompts.last_pos[prompt])
        _, cache = hooked.run_with_cache(prompts.tokens[prompt : prompt + 1, : last + 1])
        yes, no = int(prompts.yes_span[prompt, 0]), int(prompts.no_span[prompt, 0])
        for layer in range(hooked.cfg.n_layers):
            for head in range(hooked.cfg.n_heads):
                for row in cache["pattern", layer][0, head, int(prompts.first_query[prompt]) :].tolist():
                    term = (row[yes] + row[no]) * math.log(row[no] / row[yes])
                    scores[prompt, layer, head] += term
                    sizes[prompt, layer, head] += abs(term)
    return scores, sizes


@pytest.mark.parametrize("order", ORDERS)
def test_scores_are_those_of_a_loop_over_patterns(hooked, order):
    model = load_model(hooked)
    prompts = build_prompts(model, QUESTIONS, order)
    assert len(set(prompts.last_pos.tolist())) > 2
    scores, counts = score_hooked(model, prompts, 4, progress=False)
    expected, sizes = looped(hooked, prompts)
    assert ((scores - expected).abs() <= 1e-4 * sizes).all()
    assert torch.equal(counts, prompts.n_queries[:, None].expand(-1, 2).float())


def test_the_model_is_left_alone(hooked):
    tokens = torch.randint(5, 600, (1, 20), generator=torch.Generator().manual_seed(1))
    before = hooked(tokens)
    prompts = build_prompts(load_model(hooked), QUESTIONS[:4])
    score_hooked(load_model(hooked), prompts, progress=False)
    assert torch.equal(before, hooked(tokens))


def test_what_needs_the_plain_model_is_refused(hooked, tmp_path):
    model = load_model(hooked)
    with pytest.raises(ModelError, match="has no plain transformers view"):
        _ = model.hf
    delta = HeadDelta(model.weights_hash(), model.name, HeadList.of(["0.0"]), (), (), ())
    with pytest.raises(DeltaError, match="carried_to"):
        export(model, delta, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("processed", [False, True])
def test_interventions_are_those_of_hooks_written_by_hand(hooked, processed: bool):
    if processed:
        hooked.process_weights_()
    model, prompts = load_model(hooked), build_prompts(load_model(hooked), QUESTIONS[:4])

    def zero(z, hook):
        z[:, :, 1] = 0
        return z

    def cut(pattern, hook):
        for row, (yes, no) in enumerate(zip(prompts.yes_span.tolist(), prompts.no_span.tolist(), strict=True)):
            late = pattern[row, 1, int(prompts.first_query[row]) :]
            late[:, [yes[0], no[0]]] = 0
            late /= late.sum(-1, keepdim=True)
        return pattern

    for what, name, hook in ((Zero(), "hook_z", zero), (Knockout(), "hook_pattern", cut)):
        mask = torch.ones_like(prompts.tokens)
        with torch.no_grad():
            logits = hooked.run_with_hooks(
                prompts.tokens, attention_mask=mask, fwd_hooks=[(f"blocks.1.attn.{name}", hook)]
            )[torch.arange(4), prompts.last_pos]
        expected = (logits[:, prompts.no_token] - logits[:, prompts.yes_token]).numpy()
        effect = ablation_effect(hooked, QUESTIONS[:4], ["1.1"], what, "yes_no", draws=5, progress=False)
        assert abs(effect.changed.logit_differences - expected).max() < 1e-4 * max(1, abs(expected).max())
        assert abs(effect.changed.logit_differences - effect.base.logit_differences).max() > 1e-4
        assert effect.changed.run.engine == "hooked"
    assert not any(point.fwd_hooks for point in hooked.hook_dict.values())
    assert model.engine == "hooked"


def test_every_verb_takes_it(hooked):
    swept = sweep_heads(hooked, QUESTIONS[:4], draws=5)
    alone = ablation_effect(hooked, QUESTIONS[:4], ["0.2"], draws=5, progress=False)
    assert swept.values[0, 2] == pytest.approx(alone.mean_logit_difference_change, abs=1e-4)
    assert direct_logit_attribution(hooked, QUESTIONS[:4], draws=5).values.shape == (2, 4)
    estimates = estimate_zero_ablation(hooked, QUESTIONS[:4], draws=5)
    assert np.corrcoef(estimates.values.ravel(), swept.values.ravel())[0, 1] > 0
    patched = patch_heads(
        hooked, instruction_pairs(load_model(hooked), QUESTIONS[:4], kind="order"), progress=False, draws=5
    )
    assert np.isfinite(patched.effect).all()


@pytest.mark.parametrize("projections", ["q", "qkvo"])
def test_steps_move_the_slices_and_nothing_else_and_restart_at_their_layer(hooked, projections: str):
    model = load_model(hooked)
    asked = resolve_prompts(model, QUESTIONS[:6], "both", None)
    slices = tunable_slices(model, ["1.0"], projections, bias=True, share=True)
    outside, whole = outside_hash(model.weights, slices), model.weights_hash()
    tuned = TunedSlices(model, slices)
    layers = []
    handle = hooked.blocks[0].register_forward_hook(lambda *args: layers.append(0))
    trainer = Trainer(model, asked, [1], Recipe(questions=4, mixed_precision=False))
    layers.clear()
    steps = trainer.steps(tuned, np.random.default_rng(0), HeadList.of(["1.0"]))
    next(steps), next(steps)
    handle.remove()
    assert layers == []
    assert model.weights_hash() == whole
    tuned.write()
    assert model.weights_hash() != whole
    assert outside_hash(model.weights, slices) == outside


@pytest.mark.filterwarnings("ignore:.*hooked engine")
def test_the_public_functions_take_it(hooked):
    scores = score_heads(hooked, QUESTIONS[:4], draws=20, progress=False)
    assert scores.run.engine == "hooked"
    found = diagnose(hooked)
    assert (found.engine, found.n_layers, found.n_heads) == ("hooked", 2, 4)
    assert "handed over as a HookedTransformer" in (found.engines["fused"] or "")
    assert found.tuning is None


def in_hooked_transformer(model, processed: bool = False) -> HookedTransformer:
    """A plain model's weights in a HookedTransformer, as TransformerLens converts them."""
    c, kind = model.hf.config, type(model.hf).__name__
    d_head = c.hidden_size // c.num_attention_heads
    rotary = {"positional_embedding_type": "rotary", "rotary_dim": d_head, "act_fn": "silu", "gated_mlp": True,
              "normalization_type": "RMS", "final_rms": True}  # fmt: skip
    convert, own = {
        "LlamaForCausalLM": (convert_llama_weights, rotary),
        "GPT2LMHeadModel": (
            convert_gpt2_weights,
            {"positional_embedding_type": "standard", "act_fn": "gelu_new", "normalization_type": "LN",
             "scale_attn_by_inverse_layer_idx": getattr(c, "scale_attn_by_inverse_layer_idx", False)},
        ),
        "GPTNeoXForCausalLM": (
            convert_neox_weights,
            {"positional_embedding_type": "rotary", "rotary_dim": d_head // 2, "act_fn": "gelu",
             "normalization_type": "LN", "parallel_attn_mlp": True},
        ),
    }[kind]  # fmt: skip
    if "rotary_dim" in own:
        own = own | {"rotary_base": int(c.rope_parameters["rope_theta"])}
    eps = next(
        getattr(c, name) for name in ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps") if hasattr(c, name)
    )
    config = HookedTransformerConfig(
        n_layers=c.num_hidden_layers, d_model=c.hidden_size, n_ctx=min(512, c.max_position_embeddings), d_head=d_head,
        n_heads=c.num_attention_heads, n_key_value_heads=getattr(c, "num_key_value_heads", None),
        d_mlp=getattr(c, "intermediate_size", None) or 4 * c.hidden_size, d_vocab=c.vocab_size, eps=eps, device="cpu",
        original_architecture=kind, default_prepend_bos=False, **own,
    )  # fmt: skip
    hooked = HookedTransformer(config)
    hooked.tokenizer = model.tokenizer
    weights = {name: tensor.detach().clone() for name, tensor in convert(model.hf, config).items()}
    steps = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    hooked.load_and_process_state_dict(weights, **dict.fromkeys(steps, processed))
    return hooked


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("family", ["llama_tied", "gpt2", "gpt_neox"])
def test_a_converted_model_is_the_plain_one_in_all_laws(family: str, processed: bool):
    """Grouped rotary, Conv1D with learned positions, fused with parallel blocks, as TransformerLens converts them."""
    plain = load_model(tiny_model(family), tokenizer=tiny_tokenizer())
    hooked = load_model(in_hooked_transformer(plain, processed), tokenizer=plain.tokenizer)
    questions, heads, quiet = QUESTIONS[:4], ["0.1", "1.2"], {"draws": 5, "progress": False}

    def close(one, other):
        return np.nanmax(abs(np.asarray(one) - np.asarray(other))) < 1e-3 * max(1, np.nanmax(abs(np.asarray(other))))

    assert close(*(score_heads(model, questions, **quiet).values for model in (hooked, plain)))
    for what in (Zero(), Knockout(), Swap(), Mean):
        effects = [
            ablation_effect(m, questions, heads, what if what != Mean else Mean.over(m, questions, heads), **quiet)
            for m in (hooked, plain)
        ]
        # Folding moves the value biases out of the heads' outputs, where zeroing no longer reaches them.
        folded = processed and family != "llama_tied" and isinstance(what, Zero)
        for side in ("base", "changed"):
            same = close(*(getattr(effect, side).logit_differences for effect in effects))
            assert same != (folded and side == "changed"), what
        # Another head does something else: the law above can fail.
        wrong = ablation_effect(hooked, questions, ["0.0", "1.2"], Zero(), **quiet)
        assert not close(wrong.changed.logit_differences, effects[1].changed.logit_differences)
    if not processed:
        assert close(*(sweep_heads(model, questions, draws=5).values for model in (hooked, plain)))
    biased = family != "llama_tied"
    if not biased and not processed:
        pieces = tunable_slices(hooked, heads, bias=True)
        with pytest.raises(DeltaError, match=r"has no bias where blocks\.0\.attn\.b_Q was tuned"):
            HeadDelta.of(hooked, hooked.weights_hash(), heads, read_slices(hooked, pieces)).carried_to(plain)
    slices = tunable_slices(hooked, heads, "qkvo", bias=biased, share=True)
    outside, before, old = outside_hash(hooked.weights, slices), hooked.weights_hash(), read_slices(hooked, slices)
    write_slices(hooked, {piece: 1.5 * value for piece, value in old.items()})
    assert outside_hash(hooked.weights, slices) == outside
    assert hooked.weights_hash() != before
    delta = HeadDelta.of(hooked, before, heads, old)
    write_slices(hooked, old)
    if processed:
        with pytest.raises(DeltaError, match="from_pretrained_no_processing"):
            delta.carried_to(plain)
        return
    with delta.carried_to(plain).applied(plain), delta.applied(hooked):
        assert close(*(decide(model, questions, **quiet).logit_differences for model in (hooked, plain)))


@pytest.mark.parametrize("processed", [False, True])
def test_the_embedded_model_in_a_hooked_transformer_is_the_plain_one(processed: bool):
    try:
        plain = load_model("demo")
    except ModelError as error:
        pytest.skip(f"the embedded model is not there: {error}")
    torch.set_num_threads(2)
    hooked = load_model(in_hooked_transformer(plain, processed), tokenizer=plain.tokenizer)
    questions = load_questions("builtin:verify#val", limit=2)
    scores = [score_heads(m, questions, draws=5, progress=False).values for m in (plain, hooked)]
    assert np.nanmax(abs(scores[0] - scores[1])) < 1e-3
    for what in (Knockout(),):
        effects = [ablation_effect(m, questions, DEMO_HEADS, what, draws=5, progress=False) for m in (plain, hooked)]
        for side in ("base", "changed"):
            one, other = (getattr(effect, side).logit_differences for effect in effects)
            assert abs(one - other).max() < 1e-3
    before = hooked.weights_hash()
    slices = tunable_slices(hooked, DEMO_HEADS, "qkvo", share=True)
    old = read_slices(hooked, slices)
    write_slices(hooked, {piece: 1.1 * value for piece, value in old.items()})
    delta = HeadDelta.of(hooked, before, DEMO_HEADS, old)
    write_slices(hooked, old)
    if processed:
        with pytest.raises(DeltaError, match="from_pretrained_no_processing"):
            delta.carried_to(plain)
        return
    carried = delta.carried_to(plain)
    with carried.applied(plain), delta.applied(hooked):
        one, other = (decide(m, questions, draws=5, progress=False).logit_differences for m in (plain, hooked))
    assert abs(one - other).max() < 1e-3
