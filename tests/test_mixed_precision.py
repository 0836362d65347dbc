"""Passes in bfloat16 beside float32 weights: near the exact ones, for decisions and steps alone, and left behind."""

import families
import numpy as np
import pandas as pd
import pytest
import torch

from nasa_interp import ablation_effect, decide, load_model, score_heads
from nasa_interp.alignment import Limits
from nasa_interp.alignment.recipe import Recipe
from nasa_interp.alignment.setting import Setting
from nasa_interp.alignment.trainer import Trainer
from nasa_interp.alignment.tuned import TunedSlices
from nasa_interp.errors import ModelError
from nasa_interp.heads import HeadList
from nasa_interp.interventions import Zero, sweep_heads
from nasa_interp.mixed_precision import in_bfloat16
from nasa_interp.models.tunable import tunable_slices
from nasa_interp.patching import patch_data
from nasa_interp.session import resolve_prompts

FUSED = [family for family in families.SUPPORTED if (family, "fused") not in families.ENGINE_REFUSES]

# tiny random models mean to say something else than either candidate
pytestmark = pytest.mark.filterwarnings("ignore:.*answer mass")


def build(family: str, mixed: bool):
    model = load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())
    model.mixed = mixed
    return model


@pytest.mark.parametrize("family", FUSED)
def test_mixed_decisions_lie_near_the_exact_ones(family: str, questions) -> None:
    """No farther than some steps of bfloat16 at the size of the logits, and not the same: it did something."""
    exact, mixed = (decide(build(family, m), questions, progress=False) for m in (False, True))
    off = np.abs(mixed.logit_differences - exact.logit_differences)
    assert 0 < off.max() < 0.1 * np.abs(exact.logit_differences).max()
    assert (exact.run.dtype, mixed.run.dtype) == ("float32", "mixed")


def test_what_reads_attention_is_exact(questions) -> None:
    exact, mixed = (build("llama", m) for m in (False, True))
    one, other = (score_heads(m, questions, progress=False) for m in (exact, mixed))
    np.testing.assert_array_equal(one.values, other.values)
    assert other.run.dtype == "float32"
    assert mixed.exact().mixed is False
    assert mixed.exact().hf is mixed.hf
    assert exact.exact() is exact


def test_a_sweep_in_bfloat16_lies_near_the_exact_one_and_says_so(questions) -> None:
    exact, mixed = (sweep_heads(build("llama", m), questions) for m in (False, True))
    off = np.abs(mixed.values - exact.values)
    assert 0 < off.max() < 0.1 * np.abs(exact.values).max()
    assert (exact.run.dtype, mixed.run.dtype) == ("float32", "mixed")


def test_patching_is_exact(questions) -> None:
    one, other = (
        patch_data(build("llama", m), questions, kind="order", order="yes_no", progress=False) for m in (False, True)
    )
    pd.testing.assert_frame_equal(one.singles["yes_no"].to_dataframe(), other.singles["yes_no"].to_dataframe())
    assert other.singles["yes_no"].run.dtype == "float32"


def test_ablation_in_bfloat16_lies_near_the_exact_one(questions) -> None:
    effects = [
        ablation_effect(build("llama", m), questions, ["0.1", "1.2"], Zero(), progress=False) for m in (False, True)
    ]
    one, other = (effect.mean_logit_difference_change for effect in effects)
    assert abs(one - other) < 0.02
    assert one != other


def test_the_answer_is_unembedded_in_float32(questions) -> None:
    """Logits in bfloat16 would have eight bits; theirs have more."""
    model = build("llama", False)
    prompts = resolve_prompts(model, questions, "yes_no", None).batches[0]
    with torch.no_grad(), in_bfloat16(model.hf, model.device):
        logits = model.hf(prompts.tokens[:1], use_cache=False).logits
    assert logits.dtype == torch.float32
    assert (logits.bfloat16().float() != logits).any()
    assert not torch.is_autocast_enabled("cpu")
    assert not model.hf.get_output_embeddings()._forward_pre_hooks
    assert not model.hf.get_output_embeddings()._forward_hooks


def test_autocast_is_off_after_an_error(questions) -> None:
    model = build("llama", False)
    with pytest.raises(ZeroDivisionError), in_bfloat16(model.hf, model.device):
        raise ZeroDivisionError
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("family", FUSED)
def test_gradients_of_mixed_steps_point_where_the_exact_ones_do(family: str, questions) -> None:
    heads, gradients = HeadList.of(["1.0"]), []
    for mixed in (False, True):
        model = build(family, False)
        tuned = TunedSlices(model, tunable_slices(model, heads, "qo"))
        recipe = Recipe(questions=4, mixed_precision=mixed)
        trainer = Trainer(model, resolve_prompts(model, questions, "both", None), [1], recipe)
        next(trainer.steps(tuned, np.random.default_rng(0), heads))
        gradients.append(torch.cat([value.grad.flatten() for value in tuned.values]))
    exact, mixed = gradients
    assert torch.cosine_similarity(exact, mixed, dim=0) > 0.99
    assert not torch.equal(exact, mixed)


def test_tuning_validates_a_mixed_model_exactly_and_says_how_its_steps_computed(questions) -> None:
    model = build("llama", True)
    val = [q.__class__(f"{q.question} Really?", q.label, f"val {q.id}", q.group) for q in questions]
    setting = Setting.of(model, ["1.0"], questions, val, Recipe(), Limits(), None, 0)
    assert not setting.model.mixed
    assert isinstance(setting.recipe.mixed_precision, bool)
    said = Setting.of(model, ["1.0"], questions, val, Recipe(mixed_precision=False), Limits(), None, 0)
    assert said.recipe.mixed_precision is False


def test_dtype_mixed_is_asked_for_by_name(tmp_path) -> None:
    tiny = families.tiny_model("llama")
    tiny.save_pretrained(tmp_path)
    families.tiny_tokenizer().save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype="mixed", device="cpu")
    assert (model.dtype, model.arithmetic) == (torch.float32, torch.bfloat16)
    with pytest.raises(ModelError, match="mixed or auto"):
        load_model(tmp_path, dtype="mix")
