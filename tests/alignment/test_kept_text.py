"""Plain text that tuning keeps: nothing before a step, in the graph, passage by passage, out of the way."""

import families
import numpy as np
import pytest
import torch

from nasa_interp import load_model
from nasa_interp.alignment.kept_text import EVERY, KeptText
from nasa_interp.alignment.recipe import Recipe
from nasa_interp.alignment.trainer import Trainer
from nasa_interp.alignment.tuned import TunedSlices
from nasa_interp.errors import AlignmentError
from nasa_interp.evaluation import plain_text
from nasa_interp.evaluation.text_change import kl_divergence
from nasa_interp.heads import HeadList
from nasa_interp.models.tunable import tunable_slices
from nasa_interp.objectives import NegativeAttention
from nasa_interp.session import resolve_prompts

HEADS = HeadList.of(["0.1", "1.0"])


def build():
    model = load_model(families.tiny_model("llama"), tokenizer=families.tiny_tokenizer())
    return model, TunedSlices(model, tunable_slices(model, HEADS, "qo"))


def test_its_passages_are_neither_validated_on_nor_tested_on() -> None:
    probe = plain_text("probe")
    assert len(probe) == 8
    assert not set(probe) & set(plain_text("all"))
    assert all(120 <= len(passage.split()) <= 145 for passage in probe)


def test_an_unchanged_model_diverges_by_nothing_and_a_changed_one_as_the_definition_says() -> None:
    model, tuned = build()
    text = KeptText(model)
    with torch.no_grad(), tuned.inserted():
        assert float(text.divergence(model, 0)) == pytest.approx(0, abs=1e-6)
        tuned.values[0].mul_(3.0)
    row = text.rows[1]
    with torch.no_grad(), tuned.inserted():
        changed = text.divergence(model, len(text.rows) + 1)
        now = model.hf(row).logits[0, :-1:EVERY].log_softmax(-1)
    with torch.no_grad():
        was = model.hf(row).logits[0, :-1:EVERY].log_softmax(-1)
    assert changed > 0
    assert float(changed) == pytest.approx(float(kl_divergence(was, now).mean()), rel=1e-3)


def test_steps_that_keep_text_end_nearer_to_it(questions) -> None:
    found = {}
    for weight in (0.0, 1e3):
        model, tuned = build()
        text, recipe = KeptText(model), Recipe(questions=4, learning_rate=0.05, keep_text=weight, mixed_precision=False)
        asked = resolve_prompts(model, questions, "both", None)
        steps = Trainer(model, asked, [0, 1], recipe, text=text if weight else None).steps(
            tuned, np.random.default_rng(0), HEADS
        )
        for _ in range(8):
            next(steps)
        with torch.no_grad(), tuned.inserted():
            found[weight] = float(torch.stack([text.divergence(model, i) for i in range(8)]).mean())
    assert found[1e3] < 0.7 * found[0.0]


def test_an_objective_of_attention_alone_runs_no_text(questions) -> None:
    model, _ = build()
    asked, text = resolve_prompts(model, questions, "both", None), KeptText(model)
    assert Trainer(model, asked, [1], Recipe(objective=NegativeAttention()), text=text).text is None
    assert Trainer(model, asked, [1], Recipe(), text=text).text is text


def test_a_weight_below_0_is_refused() -> None:
    with pytest.raises(AlignmentError, match=r"keep_text is -1.0; give a weight of 0 or more"):
        Recipe(keep_text=-1.0)
