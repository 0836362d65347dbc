"""Asking the same again in one session costs nothing, and asking anything else is asked anew."""

import numpy as np
import pytest
import torch
from families import tiny_model, tiny_tokenizer

from nasa_interp import PromptStyle, decide, load_model, score_heads, session
from nasa_interp.errors import QuestionError
from nasa_interp.session import REMEMBERED, prompts_in_orders, remembered, resolve_questions

pytestmark = pytest.mark.filterwarnings("ignore:answer mass")


@pytest.fixture
def model():
    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("ask", [decide, score_heads])
def test_the_same_again_comes_from_memory(model, questions, ask) -> None:
    first = ask(model, questions, draws=10, progress=False)
    assert ask(model, list(questions), draws=10, progress=False) is first
    assert ask(model, questions, draws=10, progress=False, batch_size=1) is first
    assert ask(model, questions, order="yes_no", draws=10, progress=False) is not first
    assert ask(model, questions, draws=11, progress=False) is not first
    assert ask(model, questions[:3], draws=10, progress=False) is not first
    other = PromptStyle(instruction="Answer {first} or {second}.")
    assert ask(model, questions, style=other, draws=10, progress=False) is not first


def test_a_changed_model_is_asked_anew(model, questions) -> None:
    first = decide(model, questions, draws=10, progress=False)
    weight = model.hf.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        old = weight.clone()
        weight.mul_(2)
    changed = decide(model, questions, draws=10, progress=False)
    assert np.abs(changed.logit_differences - first.logit_differences).max() > 1e-3
    with torch.no_grad():
        weight.copy_(old)
    assert decide(model, questions, draws=10, progress=False) is first


def test_memory_is_bounded(model, questions) -> None:
    batches = prompts_in_orders(model, resolve_questions(questions), "yes_no", None)
    for number in range(REMEMBERED + 3):
        assert remembered(model, "number", batches, (number,), lambda digest, n=number: n) == number
    assert len(model.results) == REMEMBERED
    assert remembered(model, "number", batches, (0,), lambda digest: "anew") == "anew"


def test_weights_without_a_hash_are_never_remembered(model, questions, monkeypatch) -> None:
    monkeypatch.setattr(type(model), "weights_hash", lambda self: "")
    batches = session.prompts_in_orders(model, resolve_questions(questions), "yes_no", None)
    found = [remembered(model, "x", batches, (), lambda digest, n=n: n) for n in range(2)]
    assert found == [0, 1]


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(QuestionError, match="int is not data"):
        resolve_questions(7)
