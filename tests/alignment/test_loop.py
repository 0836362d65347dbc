"""Laws of the loop: it leaves the model alone, keeps only what helps, and goes on after a kill with the same result."""

from dataclasses import dataclass, field, replace
from typing import Any

import families
import numpy as np
import pytest
import torch

from nasa_interp import BinaryQuestion, batches, decide, load_model
from nasa_interp.alignment import Alignment, Limits, Recipe, align_heads
from nasa_interp.alignment import loop as loop_module
from nasa_interp.errors import AlignmentError, HeadError, NothingKeptError, QuestionError
from nasa_interp.heads import HeadList
from nasa_interp.objectives import Answer, Balance, NegativeAttention
from nasa_interp.prompts import PromptStyle

TEXTS = ["Water freezes at zero degrees; iron is a metal.", "The moon goes around the earth."]
# A tiny random model has nothing to lose: what validation may cost is left open.
OPEN = Limits(imbalance=0.0, auc=1.0, ranks=-1.0, answer_mass=1.0, perplexity=100.0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model():
    return load_model(families.tiny_model("llama"), tokenizer=families.tiny_tokenizer())


def asked(start: int, n: int = 12) -> list[BinaryQuestion]:
    return [
        BinaryQuestion(f"Is {i} greater than {i + (-1) ** i}?", i % 2 == 1, f"q{i}") for i in range(start, start + n)
    ]


def align(model, heads=("1.0", "0.2", "1.3"), probe=None, val=None, **options):
    options = {"texts": TEXTS, "progress": False, "limits": OPEN, "recipe": RECIPE, **options}
    return align_heads(model, heads, probe or asked(0), val or asked(100), **options)


RECIPE = Recipe(
    objective=Balance(),
    projections="qo",
    heads_at_once=1,
    steps=4,
    check_every=1,
    learning_rate=0.02,
    questions=6,
    retries=0,
)


def test_the_imbalance_shrinks_head_by_head_and_the_model_is_left_alone(model) -> None:
    whole = model.weights_hash()
    run = align(model)
    assert model.weights_hash() == whole
    assert run.delta.base_hash == whole
    assert run.tuned.distance < run.base.distance
    kept = [row for row in run.rows if row["accepted"]]
    assert kept
    assert all(row["soft_imbalance_after"] < row["soft_imbalance_before"] for row in kept)
    # each head's checkpoints are compared with the model as it was kept before it
    last = run.base.distance
    for row in run.rows:
        assert row["soft_imbalance_before"] == pytest.approx(last)
        last = row["soft_imbalance_after"] if row["accepted"] else last
    assert run.tuned.distance == pytest.approx(last)
    with run.delta.applied(model):
        assert model.weights_hash() != whole
    assert model.weights_hash() == whole


def test_what_validation_saw_is_what_the_delta_does(model) -> None:
    run = align(model)
    with run.delta.applied(model), pytest.warns(UserWarning, match="answer mass"):
        report = decide(model, asked(100), draws=10, progress=False)
    for order, part in report.orders.items():
        assert part.imbalance == pytest.approx(run.tuned.imbalance[order], abs=1e-9)
        assert part.mean_logit_difference == pytest.approx(run.tuned.mean_logit_difference[order], abs=1e-4)


def test_instructions_that_take_turns_are_tuned_and_checked_as_they_are_asked(model) -> None:
    style = PromptStyle(("Answer {first} or {second}.", "Is it so? Reply with {first}, or else with {second}."))
    run = align(model, style=style)
    assert run.run.template["instruction"] == list(style.instructions)
    with run.delta.applied(model), pytest.warns(UserWarning, match="answer mass"):
        report = decide(model, asked(100), style=style, draws=10, progress=False)
    for order, part in report.orders.items():
        assert part.mean_logit_difference == pytest.approx(run.tuned.mean_logit_difference[order], abs=1e-4)


def without_labels(questions: list[BinaryQuestion]) -> list[BinaryQuestion]:
    return [replace(question, label=None) for question in questions]


def test_without_labels_the_models_own_ranking_is_the_target(model, tmp_path) -> None:
    """No label is looked at: the result is the same whatever they were, and validation goes by the prior."""
    one, other = without_labels(asked(0)), without_labels(asked(100))
    recipe = replace(RECIPE, objective=None, heads_at_once=3, steps=6, check_every=2)
    run = align(model, probe=one, val=other, recipe=recipe)
    assert "OwnDecisions" in run.delta.log["recipe"]["objective"]
    assert run.tuned.distance < run.base.distance
    assert np.isnan([run.tuned.accuracy, run.tuned.mean_auc]).all()
    assert run.base.ranks == pytest.approx({"yes_no": 1, "no_yes": 1})
    assert run.tuned.least_rank < 1
    assert "rank correlation with the untuned d" in repr(run)
    loaded = Alignment.load(run.save(tmp_path).parent)
    assert loaded.tuned.ranks == run.tuned.ranks
    strict = Limits(imbalance=0.0, ranks=0.999999, answer_mass=1.0, perplexity=100.0)
    with pytest.raises(NothingKeptError, match="rank correlation with the untuned d"):
        align(model, probe=one, val=other, recipe=recipe, limits=strict)
    with pytest.raises(QuestionError, match="have no labels"):
        align(model, probe=one, recipe=replace(recipe, objective=Answer()))


def test_the_own_decisions_have_no_lean_in_any_order_and_wording(model) -> None:
    style = PromptStyle(("Answer {first} or {second}.", "Is it so? Reply with {first}, or else with {second}."))
    setting = loop_module.Setting.of(model, ["1.0"], asked(0), asked(100), replace(RECIPE, prior=0.5), OPEN, style, 0)
    trainer = loop_module.Trainer(model, setting.probe, [1], replace(RECIPE, recentre="wording"))
    assert set(trainer.wording.tolist()) == {0, 1}
    for order, own in trainer.own.items():
        for wording in (0, 1):
            rows = trainer.wording == wording
            assert float(own[rows].mean()) == pytest.approx(0, abs=1e-5)
            shift = trainer.d_before[order][rows] - own[rows]
            assert float(shift.max() - shift.min()) == pytest.approx(0, abs=1e-5)


def test_the_own_decisions_have_no_lean_in_any_kind_that_has_enough_questions(model) -> None:
    questions = [replace(q, group=("many", "few")[n % 5 == 0]) for n, q in enumerate(asked(0) + asked(200))]
    setting = loop_module.Setting.of(model, ["1.0"], questions, asked(100), RECIPE, OPEN, None, 0)
    trainer = loop_module.Trainer(model, setting.probe, [1], RECIPE)
    many = np.array([q.group == "many" for q in setting.probe.questions])
    assert many.sum() >= 8
    assert 0 < (~many).sum() < 8
    for own in trainer.own.values():
        assert float(own[many].mean()) == pytest.approx(0, abs=1e-5)
        assert float(own[~many].mean()) == pytest.approx(0, abs=1e-5)
    with pytest.raises(AlignmentError, match="recentre is 'group'"):
        replace(RECIPE, recentre="group")


@pytest.mark.parametrize("kill_after", [1, 2])
def test_a_killed_run_without_labels_goes_on_with_the_same_result(model, tmp_path, monkeypatch, kill_after) -> None:
    probe, val = without_labels(asked(0)), without_labels(asked(100))
    options = {"probe": probe, "val": val, "recipe": replace(RECIPE, objective=None)}
    whole = align(model, **options)
    true, calls = loop_module.Progress.finish, []

    def finish(*args, **kwargs):
        true(*args, **kwargs)
        calls.append(1)
        if len(calls) == kill_after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop_module.Progress, "finish", finish)
        with pytest.raises(KeyboardInterrupt):
            align(model, folder=tmp_path, **options)
    assert align(model, folder=tmp_path, **options).delta == whole.delta


def test_heads_at_once_are_tuned_together(model) -> None:
    run = align(model, recipe=replace(RECIPE, heads_at_once=3))
    assert len(run.rows) == 1
    assert run.rows[0]["head"] == "1.0 0.2 1.3"


def test_the_local_objective_moves_the_score(model) -> None:
    from nasa_interp import score_heads

    recipe = replace(RECIPE, objective=NegativeAttention("polarity"), projections="q", steps=10, check_every=10)
    tuned = loop_module.TunedSlices(model, loop_module.tunable_slices(model, ["1.0"], "q"))
    setting = loop_module.Setting.of(model, ["1.0"], asked(0), asked(100), recipe, OPEN, None, 0)
    trainer = loop_module.Trainer(model, setting.probe, [1], recipe)
    before = score_heads(model, asked(0), draws=10, progress=False).get("polarity")[1, 0]
    steps = trainer.steps(tuned, loop_module.np.random.default_rng(0), HeadList.of(["1.0"]))
    for _ in range(10):
        next(steps)
    tuned.write()
    after = score_heads(model, asked(0), draws=10, progress=False).get("polarity")[1, 0]
    assert abs(after) < 0.7 * abs(before)


@pytest.mark.parametrize("kill_after", [1, 2])
def test_a_killed_run_goes_on_with_the_same_result(model, tmp_path, monkeypatch, kill_after: int) -> None:
    whole = model.weights_hash()
    expected = align(model, folder=tmp_path / "whole")
    tune, done = loop_module._Loop._tune, []

    def killed(self, place, heads):
        if len(done) == kill_after:
            raise KeyboardInterrupt
        done.append(place)
        tune(self, place, heads)

    monkeypatch.setattr(loop_module._Loop, "_tune", killed)
    with pytest.raises(KeyboardInterrupt):
        align(model, folder=tmp_path / "killed")
    assert model.weights_hash() == whole
    monkeypatch.setattr(loop_module._Loop, "_tune", tune)
    resumed = align(model, folder=tmp_path / "killed")
    assert resumed.delta == expected.delta
    timeless = [[{**row, "seconds": 0} for row in run.rows] for run in (expected, resumed)]
    assert timeless[0] == timeless[1]
    assert resumed.tuned == expected.tuned


def test_the_log_gives_the_nas_of_the_heads_that_were_tuned(model) -> None:
    """Before and after are of the row's own heads; at the end, of all of them."""
    from nasa_interp import score_heads

    run = align(model)
    polarity = score_heads(model, asked(100), draws=10, progress=False).get("polarity")
    first, heads = run.rows[0], [tuple(map(int, name.split("."))) for name in ("1.0", "0.2", "1.3")]
    assert first["nas_before"] == pytest.approx(polarity[heads[0]], abs=1e-4)
    assert run.base.nas == pytest.approx(np.mean([polarity[head] for head in heads]), abs=1e-4)
    with run.delta.applied(model):
        tuned = score_heads(model, asked(100), draws=10, progress=False).get("polarity")
    assert run.tuned.nas == pytest.approx(np.mean([tuned[head] for head in heads]), abs=1e-4)


def test_every_checkpoint_is_in_the_log(model) -> None:
    run = align(model)
    for (_, checkpoints), row in zip(run.checkpoints.groupby("head", sort=False), run.rows, strict=True):
        assert list(checkpoints["step"]) == [0, 1, 2, 3, 4][: len(checkpoints)]
        assert checkpoints["soft_imbalance"].iloc[0] == pytest.approx(row["soft_imbalance_before"])
        assert checkpoints["kept"].sum() == row["accepted"]
        assert row["soft_imbalance_after"] in list(checkpoints["soft_imbalance"])


def test_where_the_text_forbids_the_best_checkpoint_the_next_one_is_kept(model, monkeypatch) -> None:
    whole, read = loop_module.TextReference.ratio, []

    def dear_at_first(self, model):
        read.append(whole(self, model))
        return 2.0 if len(read) == 1 else read[-1]

    recipe = replace(RECIPE, heads_at_once=None, steps=6, patience=6)
    best = align(model, recipe=recipe).rows[0]
    monkeypatch.setattr(loop_module.TextReference, "ratio", dear_at_first)
    run = align(model, recipe=recipe, limits=replace(OPEN, perplexity=1.9))
    (row,) = run.rows
    assert len(read) == 2
    assert row["accepted"]
    assert row["steps"] != best["steps"]
    refused = {line["step"]: line["refused"] for line in row["checkpoints"] if "perplexity" in line["refused"]}
    assert refused == {best["steps"]: "perplexity x 2.0000, over the limit of 1.9"}
    with run.delta.applied(model), pytest.warns(UserWarning, match="answer mass"):
        report = decide(model, asked(100), draws=10, progress=False)
    for order, part in report.orders.items():
        assert part.mean_logit_difference == pytest.approx(run.tuned.mean_logit_difference[order], abs=1e-4)


def test_a_run_goes_on_with_the_same_questions_only(model, tmp_path) -> None:
    """Another label under the same id is another question."""
    align(model, folder=tmp_path)
    turned = [replace(q, label=not q.label) for q in asked(0)]
    with pytest.raises(AlignmentError, match="another questions"):
        align(model, probe=turned, folder=tmp_path)


def test_where_a_limit_is_passed_a_smaller_rate_is_tried_and_the_log_says_so(model, monkeypatch) -> None:
    whole, read = loop_module.TextReference.ratio, []

    def dear_at_the_first_rate(self, model):
        read.append(whole(self, model))
        return 2.0 if len(read) <= 2 else 1.0

    monkeypatch.setattr(loop_module.TextReference, "ratio", dear_at_the_first_rate)
    recipe = replace(RECIPE, heads_at_once=None, steps=2, check_every=1, retries=1)
    limits = replace(OPEN, imbalance=1.0, perplexity=1.9)
    # A target that is reached from the start would tune nothing.
    monkeypatch.setattr(loop_module.ValidationMetrics, "within", lambda self, limits: False)
    (row,) = align(model, recipe=recipe, limits=limits).rows
    assert row["accepted"]
    assert row["rate"] == pytest.approx(0.02 / 3)
    assert row["tried"].startswith("rate 0.02: at step ")
    assert "perplexity x 2.0000, over the limit of 1.9" in row["tried"]
    assert [line["rate"] for line in row["checkpoints"][1:]] == pytest.approx([0.02, 0.02, 0.02 / 3, 0.02 / 3])


def test_where_no_rate_helps_the_error_says_what_was_tried(model) -> None:
    recipe = replace(RECIPE, heads_at_once=None, retries=2)
    with pytest.raises(
        NothingKeptError, match=r"none of 3 rates .*rate 0\.02: at step .*rate 0\.0022: at step .*answer mass"
    ):
        align(model, recipe=recipe, limits=replace(OPEN, answer_mass=-1.0))


def test_a_folder_of_another_run_is_refused(model, tmp_path) -> None:
    align(model, folder=tmp_path)
    with pytest.raises(AlignmentError, match="another seed"):
        align(model, folder=tmp_path, seed=1)


@pytest.mark.filterwarnings("ignore:answer mass")
def test_the_untuned_models_decisions_are_those_that_it_makes(model) -> None:
    run, decided = align(model), decide(model, asked(100), progress=False)
    assert run.untuned.questions == decided.questions
    assert run.untuned.order == decided.order
    assert run.untuned.logit_differences == pytest.approx(decided.logit_differences, abs=1e-4)
    assert {o: e.imbalance for o, e in run.untuned.orders.items()} == pytest.approx(run.base.imbalance)
    assert run.untuned.run.model_hash == decided.run.model_hash


def test_saving_and_loading(model, tmp_path) -> None:
    run = align(model, folder=tmp_path)
    loaded = Alignment.load(tmp_path)
    assert loaded.delta == run.delta
    assert loaded.tuned == run.tuned
    assert loaded.rows == run.rows
    assert loaded.checkpoints.equals(run.checkpoints)
    assert "checkpoints" not in run.log
    assert "imbalance" in repr(run)
    assert "<table" in run._repr_html_()
    assert loaded.untuned is not None
    assert loaded.untuned.to_dataframe().equals(run.untuned.to_dataframe())
    # Versions before called checkpoints looks.
    path = tmp_path / "align.json"
    path.write_text(path.read_text().replace('"checkpoints"', '"looks"'))
    assert Alignment.load(tmp_path).checkpoints.equals(run.checkpoints)


def test_bad_input_is_refused_and_the_model_untouched(model) -> None:
    whole = model.weights_hash()
    one_sided = [q for q in asked(0) if q.label]
    with pytest.raises(QuestionError, match="have the answer yes"):
        align(model, probe=one_sided)
    with pytest.raises(QuestionError, match="among those to tune on"):
        align(model, val=asked(6))
    with pytest.raises(HeadError, match="outside the model"):
        align(model, heads=["7.0"])
    with pytest.raises(AlignmentError, match="steps is 0"):
        Recipe(steps=0)
    assert model.weights_hash() == whole


def test_twins_across_the_two_sets_are_refused(model) -> None:
    probe, val = asked(0), asked(100)
    probe[0], val[0] = replace(probe[0], pair="p"), replace(val[0], pair="p")
    with pytest.raises(QuestionError, match="twin"):
        align(model, probe=probe, val=val)


def test_nothing_that_helps_is_an_error_and_nothing_is_kept(model, tmp_path) -> None:
    whole = model.weights_hash()
    with pytest.raises(AlignmentError, match="no head's change was kept"):
        align(model, heads=["1.0"], limits=replace(OPEN, perplexity=1e-6), folder=tmp_path)
    assert model.weights_hash() == whole
    assert not (tmp_path / "delta.safetensors").exists()


def test_a_balanced_model_is_left_as_it_is(model) -> None:
    run = align(model, limits=replace(OPEN, imbalance=1.0))
    assert not run.rows
    assert run.delta.n_changed == 0


@dataclass(frozen=True)
class Diverging:
    """The loss of another objective until one step, and no number from then on."""

    objective: Any
    at: int
    counted: list[int] = field(default_factory=list)

    reads = Balance().reads

    def __call__(self, step):
        self.counted.append(1)
        return self.objective(step) * (float("nan") if len(self.counted) >= self.at else 1.0)


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_loss_that_is_no_number_rolls_its_head_back_and_the_run_goes_on(model, at) -> None:
    whole = model.weights_hash()
    recipe = replace(RECIPE, objective=Diverging(Balance(), at))
    if at < 6:
        with pytest.raises(NothingKeptError, match="the loss became nan; tune with a lower rate"):
            align(model, recipe=recipe)
    else:
        # The first head takes four steps, the second fails at its second, and so does the third at once.
        run = align(model, recipe=recipe)
        sound = align(model)
        assert [row["accepted"] for row in run.rows] == [True, False, False]
        assert all("the loss became nan" in row["reason"] for row in run.rows[1:])
        assert run.rows[0]["soft_imbalance_after"] == sound.rows[0]["soft_imbalance_after"]
        assert run.tuned.distance == pytest.approx(run.rows[0]["soft_imbalance_after"])
        assert all(np.isfinite(value) for value in (run.tuned.loss, run.tuned.mean_auc))
    assert model.weights_hash() == whole


def test_batches_of_alignment_do_not_depend_on_free_memory(monkeypatch, model) -> None:
    runs = []
    for free in (0, 2**40):
        monkeypatch.setattr(batches, "free_memory", lambda model, free=free: free)
        runs.append(align(model))
    assert runs[0].delta == runs[1].delta
    assert [row["soft_imbalance_after"] for row in runs[0].rows] == [
        row["soft_imbalance_after"] for row in runs[1].rows
    ]


def test_weights_that_blow_up_in_the_first_layer_roll_back_too(model) -> None:
    """There a pass restarts at layer 0, where the model under tuning is not the one that was handed over."""
    run = align(model, heads=("1.0", "0.0"), recipe=replace(RECIPE, steps=3))
    assert run.rows[0]["accepted"]
    with pytest.raises(NothingKeptError):
        align(model, heads=("0.0",), recipe=replace(RECIPE, learning_rate=1e10))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"averaging": 1.0}, "averaging is 1.0; give a number from 0 to below 1"),
        ({"averaging": -0.1}, "averaging is -0.1"),
        ({"retries": -1}, "retries is -1; give 0 or more"),
        ({"learning_rate": 0.0}, "a learning rate of 0.0 tunes nothing"),
        ({"prior": 1.0}, "a prior of 1.0 is no rate between 0 and 1"),
        ({"steps": 0}, "steps is 0; give 1 or more"),
    ],
)
def test_a_recipe_that_can_not_be_followed_is_refused(options, says) -> None:
    with pytest.raises(AlignmentError, match=says):
        Recipe(**options)


def test_by_default_query_rows_and_output_columns_change(model) -> None:
    recipe = replace(RECIPE, projections=Recipe().projections)
    run = loop_module.align_heads(model, ["1.0"], asked(0), asked(100), recipe=recipe, limits=OPEN, progress=False)
    changed = {s.parameter.split(".")[-2] for s in run.delta.slices}
    assert changed == {"q_proj", "o_proj"}
