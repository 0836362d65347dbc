"""A HookedTransformer that the user made, as TransformerLens 3 still has it; run by `make legacy`."""

import math

import pytest
import torch

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
except ImportError:
    pytest.skip("this TransformerLens has no HookedTransformer; run make legacy", allow_module_level=True)

from families import QUESTIONS, tiny_tokenizer
from transformers import AutoTokenizer

from nasa_interp import load_model, score_heads
from nasa_interp.doctor import diagnose, tuning_refusal
from nasa_interp.errors import ModelError
from nasa_interp.prompts import ORDERS, build_prompts
from nasa_interp.scoring.fused import score_fused
from nasa_interp.scoring.hooked import score_hooked

# TransformerLens 3.9 announces the end of the class that is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")

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


def test_what_needs_the_plain_model_is_refused(hooked):
    model = load_model(hooked)
    prompts = build_prompts(model, QUESTIONS[:2])
    with pytest.raises(ModelError, match="handed over hooked"):
        score_fused(model, prompts, progress=False)
    assert "handed over hooked" in (tuning_refusal(model) or "")


def test_processed_weights_are_recognised(hooked):
    hooked.process_weights_()
    assert "processed" in (tuning_refusal(load_model(hooked)) or "")


@pytest.mark.filterwarnings("ignore:.*hooked engine")
def test_the_public_functions_take_it(hooked):
    scores = score_heads(hooked, QUESTIONS[:4], draws=20, progress=False)
    assert scores.run.engine == "hooked"
    found = diagnose(hooked)
    assert (found.engine, found.n_layers, found.n_heads) == ("hooked", 2, 4)
    assert "handed over hooked" in (found.engines["fused"] or "")
