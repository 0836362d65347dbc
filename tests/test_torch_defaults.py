"""Whatever a caller has set around a verb, its numbers are the same, and the settings are there afterwards."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from families import QUESTIONS, tiny_model, tiny_tokenizer

import nasa_interp as ni
from nasa_interp import Recipe, load_model
from nasa_interp.evaluation.options import four_options
from nasa_interp.evaluation.text import TextReference

pytestmark = pytest.mark.filterwarnings("ignore:answer mass")


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    assert torch.get_default_dtype() == dtype
    torch.set_default_dtype(before)


SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "another device": lambda: torch.device("meta"),
}


def everything(model, questions):
    """Numbers of each kind of computation."""
    quiet = {"draws": 10, "progress": False}
    recipe = Recipe(steps=2, check_every=1, questions=2, probe_questions=None, val_questions=None, learning_rate=0.5)
    limits = ni.Limits(auc=1.0, answer_mass=1.0, perplexity=1e9)
    prompts = ni.build_prompts(model, questions)
    yield "decide", ni.decide(model, questions, **quiet).logit_differences
    yield "score", ni.score_heads(model, questions, **quiet).values
    yield "hooked", ni.score_heads(model, questions, engine="hooked", **quiet).values
    yield "patterns", ni.attention_patterns(model, prompts, ["1.1"]).values
    yield "sweep", ni.interventions.sweep_heads(model, prompts).values
    yield "estimate", ni.attribution.estimate_zero_ablation(model, questions, draws=10).values
    yield "attribute", ni.attribution.direct_logit_attribution(model, questions, draws=10).values
    yield "ablate", ni.ablation_effect(model, questions, ["1.1"], **quiet).changed.logit_differences
    texts = ["Water freezes at zero degrees; iron is a metal."]
    reference = TextReference.of(model, texts, progress=False)
    yield "text", torch.cat(reference.log_probs).numpy()
    yield "compared", reference.compare(model, progress=False, draws=10).divergence
    yield "perplexity", np.array([ni.evaluation.perplexity(model, texts, progress=False)])
    items = four_options(2)
    yield "options", np.concatenate(ni.evaluation.answer_options(model, items, draws=10, progress=False).scores)
    yield "mean", ni.interventions.Mean.over(model, prompts, ["1.1"]).means[1].numpy()
    yield "resample", ni.interventions.Resample.over(model, prompts, ["1.1"]).sources[0].values[1].numpy()
    options = {"recipe": recipe, "limits": limits, "texts": ["Water freezes at zero degrees."], "progress": False}
    run = ni.align_heads(model, ["1.1"], questions[:2], questions[2:4], **options)
    yield "align", torch.cat([value.flatten() for value in run.delta.after]).numpy()


@pytest.fixture(scope="module")
def model():
    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def expected(model):
    return dict(everything(model, QUESTIONS))


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_numbers_do_not_depend_on_what_is_set_around(model, expected, name):
    with SURROUNDINGS[name]():
        found = dict(everything(model, QUESTIONS))
    assert found.keys() == expected.keys()
    for kind, values in found.items():
        assert values.dtype == expected[kind].dtype, kind
        assert np.array_equal(values, expected[kind], equal_nan=True), kind


@pytest.mark.parametrize("name", ["inference_mode", "bfloat16", "autocast"])
def test_a_model_that_was_loaded_there_is_the_same(tmp_path, name, questions):
    tiny_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with SURROUNDINGS[name]():
        model = load_model(tmp_path)
    assert model.dtype == torch.float32
    assert model.weights_hash() == load_model(tmp_path).weights_hash()
    assert "align" in dict(everything(model, questions))
