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


def arrays(result) -> list[np.ndarray]:
    """What must be the same in a result from memory."""
    return [result.logit_differences] if hasattr(result, "logit_differences") else [result.values, result.polarity]


def same(one, other) -> bool:
    pairs = zip(arrays(one), arrays(other), strict=True)
    return one.run == other.run and all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


@pytest.mark.parametrize("ask", [decide, score_heads])
def test_the_same_again_comes_from_memory(model, questions, ask) -> None:
    first = ask(model, questions, draws=10, progress=False)
    known = len(model.results)
    assert same(ask(model, list(questions), draws=10, progress=False), first)
    assert same(ask(model, questions, draws=10, progress=False, batch_size=1), first)
    assert len(model.results) == known
    other = PromptStyle(instruction="Answer {first} or {second}.")
    asked_anew = ({"order": "yes_no"}, {"draws": 11}, {"limit": 3}, {"style": other})
    for place, options in enumerate(asked_anew, start=1):
        ask(model, questions, **{"draws": 10, "progress": False, **options})
        assert len(model.results) == known + place


@pytest.mark.parametrize("ask", [decide, score_heads])
def test_writing_into_a_result_leaves_the_memory_alone(model, questions, ask) -> None:
    first = ask(model, questions, draws=10, progress=False)
    before = [array.copy() for array in arrays(first)]
    for array in arrays(first):
        array[:] = 7
    again = arrays(ask(model, questions, draws=10, progress=False))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(again, before, strict=True))


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
    assert same(decide(model, questions, draws=10, progress=False), first)


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
