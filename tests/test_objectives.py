"""Objectives by hand: what they are worth on answers and scores that one can add up oneself."""

import numpy as np
import pytest
import torch

from nasa_interp.errors import HeadError
from nasa_interp.objectives import Answer, Balance, NegativeAttention, OwnDecisions, Step, WeightedSum
from nasa_interp.prompts import ORDERS

# What the untuned model decided on two questions, and the same less its mean in each order.
BEFORE = {"yes_no": [1.0, 3.0], "no_yes": [4.0, 6.0]}
OWN = {"yes_no": [-1.0, 1.0], "no_yes": [-1.0, 1.0]}


def step_of(d: list[float], labels: list[bool], nas: float = 0.0, mass: float = 0.2) -> Step:
    both = {order: torch.tensor(d) for order in ORDERS}
    signs = dict(zip(ORDERS, (1.0, -1.0), strict=True))
    scores = {order: torch.full((len(d), 1), nas * signs[order]) for order in ORDERS}
    paid = {order: torch.full((len(d), 1), mass) for order in ORDERS}
    before = {order: torch.full((len(d), 1), 0.2) for order in ORDERS}
    named, named_before = ({order: torch.full((len(d),), log) for order in ORDERS} for log in (-0.5, -0.2))
    was, own = ({o: torch.tensor((2 * side[o])[: len(d)]) for o in ORDERS} for side in (BEFORE, OWN))
    wording = torch.zeros(len(d), dtype=torch.long)
    return Step(torch.tensor(labels), wording, both, was, own, named, named_before, scores, paid, before)


def test_objectives_by_hand() -> None:
    assert float(Answer(0)(step_of([0.0, 0.0, 0.0], [True, False, False]))) == pytest.approx(np.log(2))
    # all right and far: nothing to lose but the mass; one yes weighs as much as two noes
    assert float(Answer(2)(step_of([-50.0, 50.0, 50.0], [True, False, False]))) == pytest.approx(2 * 0.09)
    assert float(Answer(0)(step_of([50.0, 50.0, 50.0], [True, False, False]))) == pytest.approx(25)
    assert float(Balance()(step_of([3.0, -1.0], [True, False]))) == pytest.approx(1)
    # opposite scores in the two orders are order, not polarity
    assert float(NegativeAttention()(step_of([0.0], [True], nas=2.0))) == 0
    assert float(NegativeAttention("values")(step_of([0.0], [True], nas=2.0))) == pytest.approx(4)
    assert float(NegativeAttention(keep_mass=3)(step_of([0.0], [True], mass=0.3))) == pytest.approx(0.03)


def test_own_decisions_are_reached_where_only_the_lean_is_gone() -> None:
    assert float(OwnDecisions(0)(step_of([-1.0, 1.0], [True, False]))) == 0
    assert float(OwnDecisions(0)(step_of([0.0, 0.0], [True, False]))) == pytest.approx(1)
    assert float(OwnDecisions(2)(step_of([-1.0, 1.0], [True, False]))) == pytest.approx(2 * 0.09)
    assert float(OwnDecisions(0, average=True)(step_of([-1.0, 1.0], [True, False]))) == 0
    assert "labels" not in OwnDecisions().reads


def test_weighted_sums_add_up_and_read_what_their_terms_read() -> None:
    both = Answer() + 0.5 * (Balance() + 2 * NegativeAttention("values"))
    assert isinstance(both, WeightedSum)
    assert [weight for weight, _ in both.terms] == [1, 0.5, 1.0]
    assert both.reads == {"answer", "attention", "labels"}
    step = step_of([1.0, 2.0], [True, False], nas=0.5)
    parts = [Answer()(step), 0.5 * Balance()(step), NegativeAttention("values")(step)]
    assert float(both(step)) == pytest.approx(float(sum(parts)))
    with pytest.raises(HeadError, match="polarity"):
        NegativeAttention("order")
