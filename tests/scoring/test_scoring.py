"""Scores: the formula, the engines against an independent loop, the result."""

import math

import numpy as np
import pytest
import torch
from families import WINDOW, tiny_model, tiny_tokenizer
from scoring_loop import assert_agrees, loop_scores

import nasa_interp as ni
from nasa_interp.errors import HeadError, ResultError
from nasa_interp.models.bridge import run_hooked
from nasa_interp.prompts import build_prompts
from nasa_interp.scoring import negative_attention_score
from nasa_interp.scoring.formula import counted_queries, log_mean_attention
from nasa_interp.scoring.fused import score_fused
from nasa_interp.scoring.hooked import score_hooked

ENGINES = {"hooked": score_hooked, "fused": score_fused}


def test_formula_by_hand():
    yes, no = torch.tensor([0.1, 0.2]).log(), torch.tensor([0.4, 0.1]).log()
    expected = 0.5 * math.log(4) + 0.3 * math.log(0.5)
    every = torch.tensor([True, True])
    assert negative_attention_score(yes, no, every).item() == pytest.approx(expected, rel=1e-6)
    first = torch.tensor([True, False])
    assert negative_attention_score(yes, no, first).item() == pytest.approx(0.5 * math.log(4), rel=1e-6)


def test_swapping_the_candidates_flips_the_sign_exactly():
    generator = torch.Generator().manual_seed(0)
    yes, no = (torch.randn(4, 3, 50, generator=generator) * 20 - 30 for _ in range(2))
    every = torch.ones(50, dtype=torch.bool)
    assert torch.equal(negative_attention_score(yes, no, every), -negative_attention_score(no, yes, every))


def test_a_query_that_does_not_count_may_hold_anything_and_none_left_is_nan():
    log = torch.tensor([-1.0, -math.inf, math.nan])
    one = torch.tensor([True, False, False])
    assert negative_attention_score(log, log - 1, one).isfinite()
    assert negative_attention_score(log, log - 1, ~one & False).isnan()


def test_an_attention_that_underflows_keeps_its_term():
    yes, no = torch.tensor([-200.0]), torch.tensor([-0.5])
    found = negative_attention_score(yes, no, torch.tensor([True]))
    assert found.item() == pytest.approx(math.exp(-0.5) * 199.5, rel=1e-6)


def test_uniform_attention_scores_zero_whatever_the_candidates_lengths():
    scores, log_sum = torch.zeros(1, 2, 5, 3), torch.full((1, 2, 5), math.log(10))
    three = log_mean_attention(scores, log_sum, torch.tensor([[True, True, True]]))
    one = log_mean_attention(scores, log_sum, torch.tensor([[True, False, False]]))
    assert negative_attention_score(three, one, torch.ones(5, dtype=torch.bool)).abs().max() < 1e-6


def test_queries_counted_by_position_and_window():
    first, last = torch.tensor([3, 4]), torch.tensor([6, 5])
    span = torch.tensor([[1, 2], [2, 3]])
    queries = torch.arange(2, 8)
    full = counted_queries(first, last, span, span + 1, queries)
    assert full.tolist() == [[False, True, True, True, True, False], [False, False, True, True, False, False]]
    short = counted_queries(first, last, span, span + 1, queries, window=4)
    assert short.tolist() == [[False, True, True, False, False, False], [False, False, True, True, False, False]]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("candidates", [("Yes", "No"), ("is right", "is wrong")])
def test_engines_agree_with_an_independent_loop(family, engine, candidates, questions):
    model = ni.load_model(tiny_model(family), tokenizer=tiny_tokenizer())
    yes, no = candidates
    style = ni.PromptStyle("Say whether this {first} or {second}.", yes, no)
    for order in ("yes_no", "no_yes"):
        prompts = build_prompts(model, questions, order, style)
        found, counts = ENGINES[engine](model, prompts, batch_size=4, progress=False)
        assert_agrees(found, *loop_scores(model.hf, prompts))
        assert torch.equal(counts, prompts.n_queries[:, None].float().expand_as(counts))


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_with_the_loop_on_the_embedded_model(demo, engine):
    prompts = build_prompts(demo, ni.load_questions("builtin:verify#val", limit=2), "no_yes")
    found, _ = ENGINES[engine](demo, prompts, progress=False)
    assert_agrees(found, *loop_scores(demo.hf, prompts))


@pytest.mark.parametrize("engine", ENGINES)
def test_padding_batches_and_their_order_change_nothing(tiny, engine, questions):
    prompts = build_prompts(tiny, questions, "yes_no")
    score = ENGINES[engine]
    _, size = loop_scores(tiny.hf, prompts)
    whole, _ = score(tiny, prompts, batch_size=6, progress=False)
    for batch_size in (1, 4):
        assert_agrees(score(tiny, prompts, batch_size=batch_size, progress=False)[0], whole, size)
    turned = prompts.select(range(len(prompts) - 1, -1, -1))
    assert_agrees(score(tiny, turned, batch_size=4, progress=False)[0].flip(0), whole, size)


@pytest.mark.parametrize("engine", ["hooked", "fused"])
def test_the_model_is_left_as_it_was(tiny, engine, questions):
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        before, weights = tiny.hf(tokens).logits, tiny.weights_hash()
        implementation = tiny.hf.config._attn_implementation
        ni.score_heads(tiny, questions, engine=engine, progress=False)
        assert torch.equal(tiny.hf(tokens).logits, before)
    assert tiny.weights_hash() == weights
    assert tiny.hf.config._attn_implementation == implementation
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny.hf.modules())


def test_score_heads_splits_polarity_from_recency(tiny, questions):
    scores = ni.score_heads(tiny, questions, progress=False)
    yes_no, no_yes = (scores.per_prompt[o].mean(0) for o in ("yes_no", "no_yes"))
    np.testing.assert_allclose(scores.values, yes_no, rtol=1e-5)
    np.testing.assert_allclose(scores.polarity, (yes_no + no_yes) / 2, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(scores.values, scores.polarity + scores.recency, rtol=1e-5)
    low, high = scores.intervals["values"]
    assert ((low <= scores.values + 1e-6) & (scores.values <= high + 1e-6)).all()
    assert scores.run.engine == "fused"
    assert "checked against the hooked engine" in scores.run.notes[0]


def test_per_query_divides_by_the_number_of_queries(tiny, questions):
    whole = ni.score_heads(tiny, questions, "yes_no", progress=False)
    each = ni.score_heads(tiny, questions, "yes_no", per="query", progress=False)
    n = build_prompts(tiny, questions, "yes_no").n_queries.numpy()
    np.testing.assert_allclose(each.per_prompt["yes_no"], whole.per_prompt["yes_no"] / n[:, None, None], rtol=1e-5)


def test_one_order_alone_has_no_polarity(tiny, questions):
    scores = ni.score_heads(tiny, questions, "yes_no", progress=False)
    assert np.isnan(scores.polarity).all()
    with pytest.raises(HeadError, match="needs both candidate orders"):
        scores.top(3, "polarity")
    assert "values" in repr(scores)


def test_top_leaves_out_what_was_not_measured(tiny, questions):
    scores = ni.score_heads(tiny, questions, progress=False)
    best = scores.top(1)[0]
    scores.values[best.layer, best.index] = math.nan
    assert best not in scores.ranking()
    assert {head.layer for head in scores.ranking(from_layer=1)} == {1}
    with pytest.raises(HeadError, match="no layer 9"):
        scores.top(3, from_layer=9)
    assert scores[best] != scores[best]
    assert list(scores.looking().scores) == sorted(scores.values[scores.values > 0], reverse=True)
    with pytest.raises(HeadError, match="can't be ranked by"):
        scores.top(3, "size")
    with pytest.raises(HeadError, match="outside the model"):
        scores[99, 0]


def test_saving_and_loading_is_exact(tiny, questions, tmp_path):
    scores = ni.score_heads(tiny, questions, progress=False)
    scores.values[0, 0] = math.nan
    loaded = ni.HeadScores.load(scores.save(tmp_path / "scores.json"))
    for name in ("values", "polarity", "recency"):
        np.testing.assert_array_equal(loaded.get(name), scores.get(name))
        np.testing.assert_array_equal(loaded.intervals[name], scores.intervals[name])
    np.testing.assert_array_equal(loaded.per_prompt["no_yes"], scores.per_prompt["no_yes"])
    assert (loaded.ids, loaded.pairs, loaded.unit) == (scores.ids, scores.pairs, scores.unit)
    assert loaded.run == scores.run


def test_diff_with_itself_is_zero_and_pairs_prompts(tiny, questions):
    scores = ni.score_heads(tiny, questions, progress=False)
    nothing = scores.diff(scores)
    assert (nothing.values == 0).all()
    assert (nothing.intervals["values"] == 0).all()
    fewer = ni.score_heads(tiny, questions[:4], progress=False)
    assert np.isnan(scores.diff(fewer).intervals["values"]).all()


def test_rank_overlap_counts_and_knows_chance(tiny, questions):
    a = ni.score_heads(tiny, questions[:3], progress=False)
    same = ni.scoring.rank_overlap(a, a, k=3)
    assert len(same.shared) == 3
    assert same.spearman == pytest.approx(1.0)
    assert same.expected == pytest.approx(9 / a.values.size)
    assert same.p < 0.05


def test_rankings_of_two_models_are_not_compared(tiny, questions):
    other = ni.score_heads(tiny, questions, progress=False)
    smaller = ni.HeadScores({"values": np.zeros((1, 1))}, {}, other.run)
    with pytest.raises(ResultError, match="two models"):
        ni.scoring.rank_overlap(other, smaller)


def test_patterns_are_those_of_eager_attention(tiny, questions):
    from scoring_loop import eager_attentions

    from nasa_interp.models.bridge import eager_twin

    prompts = build_prompts(tiny, questions[:3], "yes_no")
    found = ni.attention_patterns(tiny, prompts, ["1.2", "0.0"])
    last = int(prompts.last_pos[2])
    expected = eager_attentions(eager_twin(tiny.hf), prompts.tokens[2, : last + 1])[1][2]
    np.testing.assert_allclose(found.values[2, 0, : last + 1, : last + 1], expected, atol=1e-6)
    frame = found.to_dataframe(2, (1, 2))
    assert frame.shape == (last + 1, last + 1)
    assert frame.columns[int(prompts.yes_span[2, 0])].endswith("Yes")
    np.testing.assert_allclose(frame.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(HeadError, match="no pattern of head"):
        found.to_dataframe(0, "1.1")


def test_strategyqa_dev_scores_whole(demo, shared_data):
    path = shared_data / "strategyqa" / "dev.json"
    questions = ni.load_questions(f"strategyqa:{path}")
    assert len(questions) == 229
    assert any("None" in q.question for q in questions)
    scores = ni.score_heads(demo, questions, progress=False)
    assert scores.per_prompt["yes_no"].shape == (229, 30, 9)
    assert np.isfinite(scores.per_prompt["no_yes"]).all()
    assert "17.7" in scores.top(10)


def test_scores_of_other_questions_under_the_same_ids_are_not_paired(tiny, questions):
    from dataclasses import replace

    other = [replace(q, question=f"{q.question} Indeed?") for q in questions]
    one, two = (ni.score_heads(tiny, each, draws=10, progress=False) for each in (questions, other))
    assert np.isnan(one.diff(two).intervals["values"]).all()
    assert not np.isnan(one.diff(one).intervals["values"]).any()


def test_queries_that_a_window_hides_the_candidates_from_are_counted(tiny, questions):
    """Counted by hand: a query sees a key that is less than a window behind it; both candidates must be seen."""
    windowed = ni.load_model(tiny_model("mistral"), tokenizer=tiny_tokenizer())
    scores = ni.score_heads(windowed, questions, progress=False)
    seen, total = 0, 0
    for batch in (build_prompts(windowed, questions, order) for order in ("yes_no", "no_yes")):
        for first, last, yes, no in zip(batch.first_query, batch.last_pos, batch.yes_span, batch.no_span, strict=True):
            queries = range(int(first), int(last) + 1)
            total += len(queries)
            seen += sum(query - int(min(yes[0], no[0])) < WINDOW for query in queries)
    assert 0 < seen < total
    share = f"{100 * (1 - seen / total):.0f}% of the queries don't see a candidate"
    assert [note for note in scores.run.notes if share in note]
    assert not [note for note in ni.score_heads(tiny, questions, progress=False).run.notes if "left out of NAS" in note]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "falcon", "llama"])
def test_no_layer_keeps_its_pattern_after_its_turn(family, questions):
    """TransformerLens keeps those of joint projections, all layers' at once and until the next pass."""
    model, kept = ni.load_model(tiny_model(family), tokenizer=tiny_tokenizer()), []
    prompts = build_prompts(model, questions, "yes_no")
    parts = [block.attn for block in model.bridge.blocks]
    for part in parts:
        part.hook_pattern.add_hook(
            lambda pattern, hook: kept.append(sum(p.__dict__.get("_pattern") is not None for p in parts)),
            is_permanent=True,
        )
    run_hooked(model.bridge, prompts.tokens, prompts.mask, [])
    assert kept == [0] * model.n_layers
    assert all(part.__dict__.get("_pattern") is None for part in parts)
