"""Continued prompts: what a loop over single tokens writes, padded or not, drawn by a seed of its own."""

import families
import pytest
import torch

from nasa_interp import load_model
from nasa_interp.errors import PromptError
from nasa_interp.generating import check_room, end_tokens, generate

ROWS = [[5, 6, 7], [9, 8, 7, 6, 5], [11, 12], [5, 6, 8]]
FAMILIES = ["llama", "gpt2", "gemma3_text", "gpt_neox"]


def build(family: str):
    return load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())


def by_hand(model, row: list[int], n: int) -> list[int]:
    written, ends = list(row), end_tokens(model)
    for _ in range(n):
        with torch.no_grad():
            token = int(model.hf(torch.tensor([written]), use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        written.append(token)
    return written[len(row) :]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padded", [False, True])
def test_greedy_continuations_are_those_of_a_loop(family: str, padded: bool) -> None:
    model = build(family)
    assert generate(model, ROWS, 6, padded=padded, batch_size=3) == [by_hand(model, row, 6) for row in ROWS]


def test_drawn_continuations_come_from_their_seed_and_leave_the_global_one_alone() -> None:
    model = build("llama")
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    drawn = generate(model, ROWS, 8, temperature=1.0, seed=3)
    assert torch.equal(torch.rand(1), expected)
    assert generate(model, ROWS, 8, temperature=1.0, seed=3) == drawn
    assert generate(model, ROWS, 8, temperature=1.0, seed=4) != drawn
    assert generate(model, ROWS, 8) != drawn


def test_the_models_own_settings_are_back_afterwards() -> None:
    model = build("llama")
    own = model.hf.generation_config
    generate(model, ROWS, 2)
    assert model.hf.generation_config is own


def test_no_room_is_one_clear_error() -> None:
    model = build("llama")
    limit = model.context_length
    with pytest.raises(PromptError, match=r"question 'b' makes a prompt of \d+ tokens, which leaves room for 1 of 4"):
        check_room(model, [3, limit - 1], ["a", "b"], 4)
