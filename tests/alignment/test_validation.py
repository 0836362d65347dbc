"""Laws of validation: which checkpoint is selected, for which the text is read, and when training stops."""

from dataclasses import replace

import pytest

from nasa_interp.alignment import Limits, Recipe
from nasa_interp.alignment.validation import (
    Checkpoint,
    ValidationMetrics,
    read_text,
    select_checkpoint,
    train_until_no_better,
)

LIMITS = Limits(imbalance=0.1, perplexity=1.02)


def checkpoint(
    step: int, loss: float, imbalance: float = 0.0, reason: str | None = None, ratio: float | None = None
) -> Checkpoint:
    sizes, auc = {"yes_no": imbalance}, {"yes_no": 0.9}
    metrics = ValidationMetrics(sizes, sizes, auc, 1.0, {"yes_no": 0.0}, 0.8, loss)
    return Checkpoint(step, loss, metrics, None, reason, ("answers", step), ratio)


def test_what_may_be_kept_goes_first_then_what_is_near_balance_then_the_smaller_loss() -> None:
    refused, target = checkpoint(1, 0.1, reason="AUC 0.500"), LIMITS.imbalance
    far, near = checkpoint(2, 0.2, imbalance=0.5), checkpoint(5, 0.25, imbalance=-1.9 * target)
    worse, better = checkpoint(3, 0.4, imbalance=-target), checkpoint(4, 0.3, imbalance=target)
    ranked = [better, worse, near, far, refused]
    for best in range(len(ranked)):
        assert select_checkpoint(ranked[best:][::-1], LIMITS) is ranked[best]
    assert select_checkpoint([refused], LIMITS).refusal(LIMITS) == "AUC 0.500"


def test_of_equally_good_checkpoints_the_first_is_selected() -> None:
    first, second = checkpoint(1, 0.3), checkpoint(2, 0.3)
    assert select_checkpoint([first, second], LIMITS) is first


def test_what_the_text_refuses_is_passed_over_and_named_where_nothing_else_is_left() -> None:
    best, next_best = checkpoint(1, 0.1, ratio=1.5), checkpoint(2, 0.2, ratio=1.02)
    assert select_checkpoint([best, next_best], LIMITS) is next_best
    none_left = select_checkpoint([best, replace(next_best, perplexity_ratio=float("nan"))], LIMITS)
    assert none_left is best
    assert none_left.verdict(LIMITS) == "perplexity x 1.5000, over the limit of 1.02"


@pytest.mark.parametrize(("ratios", "read", "selected"), [
    ({1: 1.0}, [1], 1),
    ({1: 2.0, 2: 1.0}, [1, 2], 2),
    ({1: 2.0, 2: float("nan"), 3: 1.0}, [1, 2, 3], 3),
    ({1: 2.0, 2: 2.0, 3: 2.0}, [1, 2, 3], 1),
])  # fmt: skip
def test_the_text_is_read_until_the_selected_checkpoint_is_known_and_no_further(ratios, read, selected) -> None:
    given = [checkpoint(3, 0.3), checkpoint(1, 0.1), checkpoint(4, 0.0, reason="AUC 0.500"), checkpoint(2, 0.2)]
    before, steps = list(given), []

    def ratio_of(one: Checkpoint) -> float:
        steps.append(one.step)
        return ratios[one.step]

    known = read_text(given, LIMITS, ratio_of)
    assert steps == read
    assert select_checkpoint(known, LIMITS).step == selected
    assert [one.step for one in known] == [one.step for one in given]
    # what was handed over is as it was: a list of the same checkpoints, none of which knows the text
    assert given == before
    assert all(one.perplexity_ratio is None for one in given)


def test_training_stops_when_so_many_checkpoints_in_a_row_were_no_better() -> None:
    losses = [0.5, 0.4, 0.45, 0.4, 0.1]
    recipe = Recipe(check_every=1, patience=2, steps=5)
    checkpoints = train_until_no_better(iter(losses), checkpoint, recipe, LIMITS, 5)
    assert [one.step for one in checkpoints] == [1, 2, 3, 4]
    # answers are large: the best alone holds them
    assert [one.answers is not None for one in checkpoints] == [False, True, False, False]


def test_training_goes_on_while_the_loss_falls_though_an_early_checkpoint_was_balanced() -> None:
    imbalances = [0.0, 0.4, 0.4, 0.4, 0.0]

    def evaluate(step: int, loss: float) -> Checkpoint:
        return checkpoint(step, loss, imbalance=imbalances[step - 1])

    recipe = Recipe(check_every=1, patience=2, steps=5)
    checkpoints = train_until_no_better(iter([0.6, 0.5, 0.4, 0.3, 0.2]), evaluate, recipe, LIMITS, 5)
    assert [one.step for one in checkpoints] == [1, 2, 3, 4, 5]
    assert select_checkpoint(checkpoints, LIMITS).step == 5
    stopped = train_until_no_better(iter([0.2, 0.5, 0.4, 0.3, 0.2]), evaluate, recipe, LIMITS, 5)
    assert [one.step for one in stopped] == [1, 2, 3]


def test_the_last_step_is_validated_though_it_is_no_multiple() -> None:
    recipe = Recipe(check_every=2, patience=9, steps=5)
    checkpoints = train_until_no_better(iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.0]), checkpoint, recipe, LIMITS, 5)
    assert [one.step for one in checkpoints] == [2, 4, 5]
