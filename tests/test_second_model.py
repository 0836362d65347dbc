"""A real model that is biased the other way: what is said of No holds of Yes."""

import pytest
from second_model import needs_second_model, second_model_path

import nasa_interp as ni

pytestmark = needs_second_model
QUESTIONS = "builtin:verify#val"
# A base model without a chat template: plain text, said outright, is no warning.
PLAIN = ni.PromptStyle(kind="plain")


@pytest.fixture(scope="module")
def gemma():
    return ni.load_model(str(second_model_path()))


# On some groups it means to say something else than Yes or No.
@pytest.mark.filterwarnings("ignore:answer mass under")
def test_a_model_that_says_yes_to_nearly_all_has_a_positive_bias(gemma) -> None:
    report = ni.decide(gemma, QUESTIONS, style=PLAIN, limit=16, progress=False)
    assert report.yes_rate > 0.9
    assert report.verdict.startswith("Positive bias")
    assert (report.bias, report.toward) == ("positive", "yes")


def test_heads_toward_yes_are_those_with_the_lowest_scores(gemma) -> None:
    scores = ni.score_heads(gemma, QUESTIONS, style=PLAIN, limit=8, progress=False)
    heads = scores.top(4, by="polarity", toward="yes")
    assert len(heads) == 4
    assert heads.toward == "yes"
    assert list(heads.scores) == sorted(scores.polarity.ravel())[:4]
    assert max(heads.scores) < 0
