"""The explorer's model: what a click gives are the verbs' own numbers, and Python and the page share one state."""

import asyncio
import json

import numpy as np
import pytest

import nasa_interp as ni
from nasa_interp.errors import HeadError, ModelError
from nasa_interp.explorer import Exploration, Explorer, explore
from nasa_interp.explorer.work import Step, Work
from nasa_interp.heads import HeadList
from nasa_interp.interventions import sweep_heads
from nasa_interp.view import Snapshot


@pytest.fixture(scope="module")
def explorer(tiny, questions) -> Explorer:
    return explore(tiny, questions)


def told(explorer, name: str, value: object) -> None:
    """As the page sends it: a change of state."""
    explorer.set_state({name: value})


def sent(explorer, **message: object) -> None:
    """As the page sends it: a press of a button."""
    explorer._handle_custom_msg(message, [])


def test_it_scores_as_score_heads_does(explorer, tiny, questions) -> None:
    scores = ni.score_heads(tiny, questions, progress=False)
    for by in ("values", "polarity", "recency"):
        np.testing.assert_allclose(explorer.scores.get(by), scores.get(by), atol=1e-4)
        grid = next(grid for grid in explorer.grids if grid["name"] == by)
        np.testing.assert_allclose(grid["numbers"], scores.get(by), atol=2e-4)
        np.testing.assert_allclose(grid["high"], explorer.scores.intervals[by][1], atol=1e-4)


@pytest.mark.parametrize("head", ["0.3", "1.2"])
def test_a_click_gives_the_numbers_of_the_view(explorer, tiny, questions, head) -> None:
    told(explorer, "question", 3)
    told(explorer, "shown", head)
    assert explorer.view["head"] == head
    assert [order["order"] for order in explorer.view["orders"]] == ["yes_no", "no_yes"]
    for shown in explorer.view["orders"]:
        view = ni.view_heads(tiny, questions[3], [head], shown["order"])
        np.testing.assert_allclose(shown["received"], view.received[0], atol=1e-4)
        np.testing.assert_allclose(np.array(shown["added"], dtype=float), view.contributions[0], atol=1e-4)
        assert shown["nas"] == pytest.approx(view.nas[0], abs=1e-3)
        assert shown["d"] == pytest.approx(view.logit_difference, abs=1e-3)
        assert shown["roles"][view.yes_span[0]] == "yes"
        assert len(shown["tokens"]) == len(view.tokens) == len(shown["shades"])


def test_a_second_head_of_a_shown_prompt_runs_no_model(explorer, monkeypatch) -> None:
    told(explorer, "question", 0)
    monkeypatch.setattr("nasa_interp.explorer.exploration.view_heads", None)
    for head in ("0.0", "1.3"):
        told(explorer, "shown", head)
        assert explorer.view["head"] == head


def test_heads_go_both_ways(explorer) -> None:
    ranked = explorer.scores.top(2, "polarity")
    explorer.heads = ranked
    assert explorer.chosen == [str(head) for head in ranked]
    assert explorer.heads == ranked
    told(explorer, "chosen", ["1.2", "0.1"])
    assert explorer.heads.heads == HeadList.of(["1.2", "0.1"]).heads
    assert explorer.heads.run["model"] == "LlamaForCausalLM"
    for wrong in (["9.0"], ["0.1", "0.1"], ["x"]):
        with pytest.raises(HeadError):
            explorer.heads = wrong
    assert explorer.chosen == ["1.2", "0.1"]


@pytest.mark.parametrize(
    ("message", "what"),
    [({"do": "zero"}, ni.Zero()), ({"do": "knockout"}, ni.Knockout()), ({"do": "scale", "factor": 2}, ni.Scale(2.0))],
)
def test_a_button_gives_the_d_of_ablation_effect(explorer, tiny, questions, message, what) -> None:
    """Computed a few questions a step, on the page and as a value."""
    explorer.heads = ["1.2", "0.1"]
    told(explorer, "question", 4)
    sent(explorer, **message)
    expected = ni.ablation_effect(tiny, questions, ["1.2", "0.1"], what, progress=False)
    found = explorer.last_effect
    assert found.base.order == expected.base.order
    assert found.base.questions == expected.base.questions
    for name in ("base", "changed"):
        d, wanted = (getattr(effect, name).logit_differences for effect in (found, expected))
        np.testing.assert_allclose(d, wanted, atol=1e-4)
    rows = {row["what"]: row for row in explorer.effect["rows"]}
    before, after = expected.estimate("no_yes").loc["mean_logit_difference", ["before", "after"]]
    row = rows["mean of 6 questions, order No, Yes"]
    assert (row["before"], row["after"]) == pytest.approx((before, after), abs=1e-4)
    row = rows["this question, order Yes, No"]
    assert row["after"] == pytest.approx(expected.changed.logit_differences[4], abs=1e-4)
    assert row["change"] == pytest.approx(row["after"] - row["before"])


def test_a_sweep_is_that_of_sweep_heads(tiny, questions) -> None:
    exploration = Exploration(tiny, questions, swept=2)
    steps = list(exploration.sweeping())
    assert [step.done for step in steps] == list(range(1, tiny.n_layers + 1))
    expected = sweep_heads(tiny, list(exploration.few))
    np.testing.assert_allclose(exploration.sweep.values, expected.values, atol=1e-4)


def test_a_changed_model_is_refused_until_refreshed(questions) -> None:
    from families import tiny_model, tiny_tokenizer

    model = ni.load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    explorer = explore(model, questions[:2])
    explorer.zero()
    model.hf.model.layers[0].self_attn.q_proj.weight.data *= 1.5
    with pytest.raises(ModelError, match="was changed since the explorer asked it"):
        explorer.zero()
    sent(explorer, do="zero")
    assert "call refresh()" in explorer.note
    explorer.refresh()
    explorer.zero()
    assert explorer.note == ""


def test_wrong_buttons_are_told_and_change_nothing(explorer) -> None:
    before = dict(explorer.effect)
    sent(explorer, do="scale", factor="much")
    assert explorer.note
    sent(explorer, do="scale", factor=float("nan"))
    assert "finite factor" in explorer.note
    sent(explorer, do="something else")
    assert explorer.effect == before
    with pytest.raises(HeadError, match=r"outside the model"):
        explorer.shown = "7.0"
    with pytest.raises(HeadError, match="question 99"):
        explorer.question = 99


def test_scores_of_another_model_are_refused(tiny, questions, explorer) -> None:
    wrong = ni.HeadTable({"values": np.zeros((5, 5))}, {"values": np.zeros((2, 5, 5))}, explorer.scores.run)
    with pytest.raises(HeadError, match="score this model"):
        explore(tiny, questions, scores=explorer.scores, effects=wrong)


def test_what_is_handed_over_is_not_computed(tiny, questions, explorer, monkeypatch) -> None:
    monkeypatch.setattr("nasa_interp.explorer.exploration.score_chunk", None)
    again = explore(tiny, questions, scores=explorer.scores, limit=2)
    assert again.grids == explorer.grids[:3]
    assert len(again.questions) == 2


def test_all_state_is_plain(explorer) -> None:
    """No NaN and no array on its way to the page."""
    names = ("size", "grids", "questions", "view", "effect", "task", "chosen")
    json.dumps({name: getattr(explorer, name) for name in names}, allow_nan=False)


def test_a_snapshot_is_exact_and_saved_whole(explorer, tmp_path) -> None:
    told(explorer, "shown", "0.3")
    taken = explorer.snapshot()
    again = Snapshot.load(explorer.save(tmp_path / "explorer.json"))
    assert json.dumps(again.content(), default=list) == json.dumps(taken.content(), default=list)
    shown = next(prompt for prompt in again.prompts if prompt["question"] == explorer.view["question"])
    assert shown["heads"]["0.3"][1]["added"] == explorer.view["orders"][1]["added"]


# Work in steps -------------------------------------------------------------------------------------------------------


class Job:
    """A job that counts its steps."""

    def __init__(self, n: int):
        self.done, self.n = 0, n

    def __iter__(self):
        while self.done < self.n:
            self.done += 1
            yield Step(self.done, self.n)


def test_work_on_a_loop_can_be_stopped_between_steps() -> None:
    shown, long = [], Job(10_000)

    async def run() -> None:
        work = Work(shown.append, pytest.fail)
        work.start("long", iter(long))
        await asyncio.sleep(0.05)
        work.stop()
        done = long.done
        await asyncio.sleep(0.05)
        assert 0 < long.done == done < 10_000
        assert not work.busy

    asyncio.run(run())
    assert shown[0] == {"name": "long", "done": 1, "total": 10_000}
    assert shown[-1] == {}


def test_the_newest_job_comes_first_and_the_others_go_on() -> None:
    shown, errors = [], []

    def broken():
        yield Step(1, 2)
        raise ModelError("no")

    async def run() -> None:
        work = Work(shown.append, errors.append)
        work.start("first", iter(Job(3)))
        work.start("second", broken())
        while work.busy:
            await asyncio.sleep(0.01)

    asyncio.run(run())
    assert [task.get("name") for task in shown if task] == ["second", "first", "first", "first"]
    assert [str(error) for error in errors] == ["no"]


def test_without_a_loop_work_is_done_at_once_and_raises() -> None:
    shown, job = [], Job(2)
    work = Work(shown.append, pytest.fail)
    work.start("all", iter(job))
    assert job.done == 2
    assert shown[-1] == {}

    def broken():
        raise ModelError("no")
        yield

    with pytest.raises(ModelError, match="no"):
        work.start("broken", broken())
    assert not work.busy
