"""Laws of what tuning may change: the chosen slices and nothing else, bit for bit."""

import families
import numpy as np
import pytest
import torch

from nasa_interp import load_model
from nasa_interp.alignment.recipe import Recipe
from nasa_interp.alignment.trainer import Trainer
from nasa_interp.alignment.tuned import RunningMean, Tuned, TunedSlices
from nasa_interp.heads import HeadList
from nasa_interp.models.tunable import outside_hash, tunable_slices
from nasa_interp.prompts import build_prompts
from nasa_interp.session import resolve_prompts

FUSED = [family for family in families.SUPPORTED if (family, "fused") not in families.ENGINE_REFUSES]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(family: str):
    return load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())


@pytest.mark.parametrize("family", FUSED)
def test_a_step_moves_the_slices_and_nothing_else(family: str, questions) -> None:
    model, heads = build(family), HeadList.of(["1.0"])
    slices = tunable_slices(model, heads, "q")
    whole, outside = model.weights_hash(), outside_hash(model.hf, slices)
    asked = [p.requires_grad for p in model.hf.parameters()]
    tuned = TunedSlices(model, slices)
    before = tuned.state()
    trainer = Trainer(model, resolve_prompts(model, questions, "both", None), [1], Recipe(questions=4))
    steps = trainer.steps(tuned, np.random.default_rng(0), heads)
    next(steps), next(steps)
    assert model.weights_hash() == whole, "nothing is written before `write`"
    assert asked == [p.requires_grad for p in model.hf.parameters()]
    assert all(p.grad is None for p in model.hf.parameters())
    assert all((a != b).any() for a, b in zip(before, tuned.state(), strict=True))
    tuned.write()
    assert model.weights_hash() != whole
    assert outside_hash(model.hf, slices) == outside
    tuned.load(before)
    tuned.write()
    assert model.weights_hash() == whole


@pytest.mark.parametrize("projection", ["q", "o"])
def test_inserted_tensors_are_what_the_model_computes_with(projection: str, questions) -> None:
    model = build("llama")
    prompts = build_prompts(model, questions)
    slices = tunable_slices(model, ["1.2"], projection)
    tuned = TunedSlices(model, slices)
    with torch.no_grad():
        base = model.answer_logits(prompts.tokens, prompts.mask)
        tuned.values[0].add_(1.0)
        with tuned.inserted():
            inserted = model.answer_logits(prompts.tokens, prompts.mask)
        assert torch.equal(model.answer_logits(prompts.tokens, prompts.mask), base)
        tuned.write()
        assert torch.equal(model.answer_logits(prompts.tokens, prompts.mask), inserted)
    assert not torch.equal(inserted, base)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9])
def test_the_running_mean_is_the_weighted_mean_of_all_steps(keep: float) -> None:
    """Beside a loop over the steps' values; the tensors themselves stay as the last step left them."""
    tuned, rng = Tuned(), np.random.default_rng(0)
    tuned.values = [torch.zeros(2, 3), torch.zeros(4)]
    mean, seen = RunningMean(tuned, keep), []
    with mean.instead():
        assert all(torch.equal(value, torch.zeros_like(value)) for value in tuned.values)

    def steps():
        for _ in range(5):
            tuned.load([torch.from_numpy(rng.normal(size=value.shape)).float() for value in tuned.values])
            seen.append(tuned.state())
            yield 1.0

    for step, _ in enumerate(mean.over(steps()), start=1):
        weights = np.array([keep ** (step - 1 - s) for s in range(step)])
        with mean.instead():
            for place, value in enumerate(tuned.values):
                expected = (
                    sum(w * float(s[place].ravel()[1]) for w, s in zip(weights, seen, strict=True)) / weights.sum()
                )
                assert value.ravel()[1].item() == pytest.approx(expected, abs=1e-6)
        assert all(torch.equal(value, last) for value, last in zip(tuned.values, seen[-1], strict=True))


def test_a_raising_body_leaves_the_model_as_it_was(questions) -> None:
    model = build("llama")
    whole, names = model.weights_hash(), [name for name, _ in model.hf.named_parameters()]
    tuned = TunedSlices(model, tunable_slices(model, ["0.1"], "q"))
    with pytest.raises(ZeroDivisionError), tuned.inserted():
        _ = 1 / 0
    assert model.weights_hash() == whole
    assert names == [name for name, _ in model.hf.named_parameters()]


def test_low_precision_models_are_tuned_in_fp32() -> None:
    hf = families.tiny_model("llama").to(torch.bfloat16)
    model = load_model(hf, tokenizer=families.tiny_tokenizer())
    tuned = TunedSlices(model, tunable_slices(model, ["0.0"]))
    assert tuned.values[0].dtype == torch.float32
    whole = model.weights_hash()
    tuned.write()
    assert model.weights_hash() == whole
