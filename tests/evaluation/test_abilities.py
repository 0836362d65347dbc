"""Perplexity against transformers' own loss, the price of a change, four-option scores against a loop of one option."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from families import tiny_model, tiny_tokenizer
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing

import nasa_interp as ni
from nasa_interp.bootstrap import draw_weights
from nasa_interp.errors import ModelError, PromptError, QuestionError, ResultError
from nasa_interp.evaluation import (
    FourOptions,
    OptionReport,
    TextChange,
    TextReference,
    answer_options,
    four_options,
    likelihood,
    perplexity,
    plain_text,
    text,
)
from nasa_interp.evaluation.text_change import kl_divergence
from nasa_interp.models.bridge import build_bridge
from nasa_interp.run import RunInfo

# Soft caps, scaled logits, sliding windows, Conv1D, tied embeddings.
FAMILIES = ("llama", "gpt2", "granite", "gemma2", "mistral")
RUN = RunInfo("tiny", "made up", 4, (), draws=200)

TEXTS = [" ".join(passage.split()[:n]) for passage, n in zip(plain_text("val"), (30, 4, 17, 45, 9), strict=False)]

ITEMS = [
    FourOptions("a", "The ball of Tom is", ("red", "blue", "of a colour that nobody knows", "green"), 0, "things"),
    FourOptions("b", "Water freezes at", ("zero degrees", "night", "the station", "noon"), 0, "facts"),
    FourOptions("c", "The list holds bread, milk, salt and", ("tea", "iron", "Yes", "seven long stories"), 0, "things"),
    FourOptions("d", "Iron is a", ("film", "metal", "planet", "word"), 1, "facts"),
]


def tiny_of(family="llama", tokenizer=None):
    return ni.load_model(tiny_model(family), tokenizer=tokenizer or tiny_tokenizer())


def bos_tokenizer():
    tokenizer = tiny_tokenizer()
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    return tokenizer


@torch.no_grad()
def library_perplexity(model, rows):
    losses = [(model.hf(torch.tensor([row]), labels=torch.tensor([row])).loss.item(), len(row) - 1) for row in rows]
    return math.exp(sum(loss * n for loss, n in losses) / sum(n for _, n in losses))


@torch.no_grad()
def log_probs_of(model, row):
    return model.hf(torch.tensor([row])).logits[0].float().log_softmax(-1)


def naive_scores(model, items):
    scores = np.zeros((len(items), 4))
    for i, item in enumerate(items):
        start = len(model.tokenizer(item.question)["input_ids"])
        for k, option in enumerate(item.options):
            row = model.tokenizer(f"{item.question} {option}")["input_ids"]
            found = log_probs_of(model, row)
            scores[i, k] = np.mean([found[pos - 1, row[pos]].item() for pos in range(start, len(row))])
    return scores


def test_the_passages_are_many_short_and_split_once():
    everything, val, test = plain_text(), plain_text("val"), plain_text("test")
    counts = [len(passage.split()) for passage in everything]
    assert len(everything) == 24
    assert min(counts) >= 110
    assert max(counts) <= 150
    assert 2900 <= sum(counts) <= 3300
    assert val == everything[::3]
    assert sorted(val + test) == sorted(everything)
    assert not set(val) & set(test)
    assert not set(plain_text("probe")) & set(everything)
    with pytest.raises(PromptError, match="no part 'train'"):
        plain_text("train")


def test_the_questions_tell_their_answer_by_nothing_else():
    items = four_options()
    assert len(items) >= 120
    assert len({item.id for item in items}) == len({item.question for item in items}) == len(items)
    assert set(Counter(item.answer for item in items).values()) == {len(items) // 4}
    for topic in {item.topic for item in items}:
        assert set(Counter(i.answer for i in items if i.topic == topic).values()) == {4}
    lengths = np.array([[len(option) for option in item.options] for item in items])
    answers = np.array([item.answer for item in items])
    for guess in (lengths.argmax(1), lengths.argmin(1)):
        assert np.mean(guess == answers) < 0.4


def test_a_limit_draws_by_seed_and_keeps_the_order():
    items = four_options()
    few = four_options(20, seed=1)
    assert few == four_options(20, seed=1) != four_options(20, seed=2)
    assert [items.index(item) for item in few] == sorted(items.index(item) for item in few)
    assert four_options(10**6) == items
    with pytest.raises(QuestionError, match="limit of 0"):
        four_options(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_perplexity_is_the_librarys_own_loss(family):
    model = tiny_of(family)
    rows = model.tokenizer(TEXTS)["input_ids"]
    assert perplexity(model, TEXTS, progress=False) == pytest.approx(library_perplexity(model, rows), rel=1e-5)


def test_a_bos_token_comes_first_where_the_tokenizer_adds_one():
    model = tiny_of(tokenizer=bos_tokenizer())
    rows = model.tokenizer(TEXTS)["input_ids"]
    assert rows[0][0] == model.tokenizer.bos_token_id
    with_bos = perplexity(model, TEXTS, progress=False)
    assert with_bos == pytest.approx(library_perplexity(model, rows), rel=1e-5)
    assert with_bos != pytest.approx(library_perplexity(model, [row[1:] for row in rows]), rel=1e-4)
    scores = answer_options(model, ITEMS, progress=False).scores
    np.testing.assert_allclose(scores, naive_scores(model, ITEMS), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_batches_change_nothing(family, batch_size):
    model = tiny_of(family)
    alone = perplexity(model, TEXTS, batch_size=batch_size, progress=False)
    assert alone == pytest.approx(perplexity(model, TEXTS, progress=False), rel=1e-5)
    np.testing.assert_allclose(
        answer_options(model, ITEMS, batch_size=batch_size, progress=False).scores,
        answer_options(model, ITEMS, progress=False).scores,
        atol=1e-5,
    )


def test_rows_whose_logits_are_too_large_are_read_in_parts(tiny, monkeypatch):
    whole, scores = TextReference.of(tiny, TEXTS, every=3, progress=False), naive_scores(tiny, ITEMS)
    monkeypatch.setattr(likelihood, "LOGIT_BYTES", 4 * tiny.config.vocab_size * 7)
    readings = list(likelihood.read_rows(tiny, [likelihood.Row(whole.rows[0], 3)]))
    assert max(len(reading.log_probs) for reading in readings) == 7
    parts = TextReference.of(tiny, TEXTS, every=3, progress=False)
    for a, b in zip(whole.losses + whole.log_probs, parts.losses + parts.log_probs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(answer_options(tiny, ITEMS, progress=False).scores, scores, atol=1e-5)


def test_the_reference_holds_the_models_own_distributions(tiny):
    reference = TextReference.of(tiny, TEXTS, every=4, progress=False)
    for row, losses, sampled in zip(reference.rows, reference.losses, reference.log_probs, strict=True):
        assert not losses.requires_grad
        expected = log_probs_of(tiny, row)[:-1]
        torch.testing.assert_close(sampled, expected[::4], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(losses, -expected[range(len(row) - 1), row[1:]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_a_model_compared_with_itself_costs_nothing(tiny, batch_size):
    price = TextReference.of(tiny, TEXTS, batch_size=batch_size, progress=False).compare(tiny, progress=False)
    assert (price.ratio, price.low, price.high, price.kl) == (1, 1, 1, 0)
    assert price.before == price.after == pytest.approx(perplexity(tiny, TEXTS, progress=False), rel=1e-5)


def test_a_change_has_a_price_until_it_is_taken_back():
    model = tiny_of()
    reference = TextReference.of(model, TEXTS, every=2, progress=False)
    weight = model.hf.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        # Far flatter expectations: KL in the other direction is another number.
        weight *= 0.5
    price = reference.compare(model, progress=False)
    assert (price.divergence > 0).all()
    assert price.low <= price.ratio <= price.high
    assert price.low < price.high
    assert price.after == pytest.approx(perplexity(model, TEXTS, progress=False), rel=1e-5)
    assert price.ratio == pytest.approx(price.after / price.before) != 1
    assert price.base.model_hash != price.run.model_hash
    expected = []
    for row, before in zip(reference.rows, reference.log_probs, strict=True):
        now = log_probs_of(model, row)[:-1:2]
        expected.append(torch.nn.functional.kl_div(now, before, reduction="none", log_target=True).sum(-1))
    assert price.kl == pytest.approx(torch.cat(expected).mean().item(), rel=1e-4)
    with torch.no_grad():
        weight.copy_(kept)
    assert reference.compare(model, progress=False).kl == 0


def test_divergence_is_never_negative_and_agrees_with_torch():
    generator = torch.Generator().manual_seed(0)
    base, noise = torch.randn(2, 50, 400, generator=generator)
    for scale in (1.0, 1e-3, 1e-6):
        p, q = (3 * base).log_softmax(-1), (3 * base + scale * noise).log_softmax(-1)
        found = kl_divergence(p, q)
        assert (found > 0).all()
        if scale == 1:
            expected = torch.nn.functional.kl_div(q.double(), p.double(), reduction="none", log_target=True).sum(-1)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert kl_divergence(p, p).eq(0).all()


def test_what_both_models_rule_out_costs_nothing():
    p = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
    q = torch.tensor([[0.4, 0.6, 0.0], [0.5, 0.5, 0.0]])
    found = kl_divergence(p.log(), q.log())
    assert found[0].item() == pytest.approx(0.7 * math.log(0.7 / 0.4) + 0.3 * math.log(0.3 / 0.6), abs=1e-6)
    assert found[1] > 100
    assert found[1].isfinite()


def made_up_price(before, after, tokens=(10, 20, 30, 40)):
    n = len(tokens)
    return TextChange(
        np.array(tokens), np.array(before), np.array(after), np.full(n, 5), np.linspace(0, 1, n), RUN, RUN
    )


def test_the_ratio_is_paired_and_weighted_by_tokens():
    before = np.array([1.0, 2.0, 3.0, 4.0])
    even = made_up_price(before, before + 0.1)
    assert even.ratio == pytest.approx(math.exp(0.1))
    assert even.low == pytest.approx(even.high) == pytest.approx(even.ratio)
    one = made_up_price(before, before + np.array([0, 0, 0, 1.0]))
    assert one.before == pytest.approx(math.exp(3.0))
    assert one.ratio == pytest.approx(math.exp(0.4))
    drawn = [np.average([0, 0, 0, 1.0], weights=w * one.tokens) for w in draw_weights(np.arange(4), RUN.draws)]
    assert (one.low, one.high) == pytest.approx(tuple(np.exp(np.quantile(drawn, [0.025, 0.975]))))
    assert one.low < one.ratio < one.high
    assert one.kl == pytest.approx(0.5)


def test_a_price_saves_loads_and_shows(tiny, tmp_path):
    price = TextReference.of(tiny, TEXTS[:2], progress=False).compare(tiny, seed=3, draws=20, progress=False)
    loaded = TextChange.load(price.save(tmp_path / "price.json"))
    assert (loaded.run, loaded.base, repr(loaded)) == (price.run, price.base, repr(price))
    assert loaded.to_dataframe().equals(price.to_dataframe())
    assert (price.run.seed, price.run.draws, price.run.data) == (3, 20, "own texts")
    assert "<table" in price._repr_html_()
    (tmp_path / "bad.json").write_text('{"kind": "text_price", "passages": [{}]}')
    with pytest.raises(ResultError, match="is damaged"):
        TextChange.load(tmp_path / "bad.json")
    with pytest.raises(ResultError, match="does not hold a report"):
        OptionReport.load(tmp_path / "bad.json")


def test_texts_that_cannot_be_read_are_refused(tiny, monkeypatch):
    for texts, said in [([], "not a list of texts"), ("a text", "not a list"), (["x"], "nothing to predict")]:
        with pytest.raises(PromptError, match=said):
            perplexity(tiny, texts, progress=False)
    with pytest.raises(PromptError, match=r"text 1 has .* context of 512"):
        perplexity(tiny, ["a text", "word " * 600], progress=False)
    with pytest.raises(ResultError, match="every 0 positions"):
        TextReference.of(tiny, TEXTS, every=0, progress=False)
    monkeypatch.setattr(text, "REFERENCE_BYTES", 4 * tiny.config.vocab_size * 20)
    with pytest.raises(ResultError, match=r"would take .* sample fewer by a larger every"):
        TextReference.of(tiny, TEXTS, progress=False)
    assert TextReference.of(tiny, TEXTS, every=500, progress=False).log_probs[0].shape[0] == 1


def test_a_model_with_other_tokens_has_no_price(tiny):
    reference = TextReference.of(tiny, TEXTS, progress=False)
    with pytest.raises(ResultError, match="other tokens"):
        reference.compare(tiny_of(tokenizer=bos_tokenizer()), progress=False)


def test_broken_logits_are_refused():
    model = tiny_of()
    with torch.no_grad():
        model.hf.model.norm.weight[0] = math.nan
    with pytest.raises(ModelError, match="text 0: the likelihoods are no finite numbers"):
        perplexity(model, TEXTS, progress=False)
    with pytest.raises(ModelError, match="question 'a': the log-probabilities are no finite numbers"):
        answer_options(model, ITEMS, progress=False)


def test_a_model_that_unembeds_elsewhere_is_refused(monkeypatch):
    model = tiny_of()
    monkeypatch.setattr(model.hf, "get_output_embeddings", lambda: torch.nn.Identity())
    with pytest.raises(ModelError, match="doesn't unembed through its output embeddings"):
        perplexity(model, TEXTS, progress=False)


def test_reading_leaves_the_model_and_global_randomness_alone(tiny):
    tokens = torch.tensor([tiny.tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        before, state = tiny.hf(tokens).logits, torch.get_rng_state()
        TextReference.of(tiny, TEXTS, progress=False).compare(tiny, progress=False)
        answer_options(tiny, ITEMS, progress=False)
        assert torch.equal(tiny.hf(tokens).logits, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", FAMILIES)
def test_option_scores_are_those_of_one_option_at_a_time(family):
    model = tiny_of(family)
    report = answer_options(model, ITEMS, progress=False)
    np.testing.assert_allclose(report.scores, naive_scores(model, ITEMS), atol=1e-5)
    assert np.array_equal(report.choices, naive_scores(model, ITEMS).argmax(1))


def test_the_place_of_an_option_does_not_matter(tiny):
    turned = [FourOptions(i.id, i.question, i.options[::-1], 3 - i.answer, i.topic) for i in ITEMS]
    ahead, back = (answer_options(tiny, items, progress=False) for items in (ITEMS, turned))
    np.testing.assert_allclose(ahead.scores, back.scores[:, ::-1], atol=1e-6)
    assert np.array_equal(ahead.right, back.right)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"options": ("a", "b", "c")}, "not four different options"),
        ({"options": ("a", "b", "c", "a")}, "not four different options"),
        ({"options": ("a", "b", "c", "")}, "is empty"),
        ({"options": ("a", "b", "c", " d")}, "space at its ends"),
        ({"question": "A cat is an "}, "space at its ends"),
        ({"question": ""}, "is empty"),
        ({"answer": 4}, "the answer 4 is not an index"),
        ({"answer": -1}, "the answer -1 is not an index"),
    ],
)
def test_malformed_questions_are_refused_with_their_id(changed, said):
    fields = {"id": "q7", "question": "A cat is an", "options": ("a", "b", "c", "d"), "answer": 0}
    with pytest.raises(QuestionError, match=f"'q7'.*{said}"):
        FourOptions(**{**fields, **changed})


def test_lists_of_questions_that_cannot_be_asked_are_refused(tiny):
    with pytest.raises(QuestionError, match="is empty"):
        answer_options(tiny, [], progress=False)
    with pytest.raises(QuestionError, match="2 four-option questions share the id 'a'"):
        answer_options(tiny, [ITEMS[0], ITEMS[1], ITEMS[0]], progress=False)
    with pytest.raises(PromptError, match=r"question 'x' has .* context of 512"):
        answer_options(tiny, [FourOptions("x", "word " * 600 + "is", ("a", "b", "c", "d"), 0)], progress=False)


def test_a_question_that_merges_with_its_option_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("Iron is a metal", "Iron")
    with pytest.raises(PromptError, match="'d' and its option 'metal' tokenize otherwise"):
        answer_options(tiny_of(tokenizer=tokenizer), ITEMS, progress=False)


def made_up_report(choices, answers):
    scores = np.full((len(choices), 4), -2.0)
    scores[np.arange(len(choices)), choices] = -1
    items = tuple(FourOptions(str(i), "It is", ("a", "b", "c", "d"), answer) for i, answer in enumerate(answers))
    return OptionReport(scores, items, RUN)


def test_accuracy_and_its_change_by_hand():
    answers = [0, 1, 2, 3] * 5
    half = made_up_report([0, 1, 3, 2] * 5, answers)
    assert half.accuracy == 0.5
    assert 0.2 < half.low < 0.5 < half.high < 0.8
    whole = made_up_report(answers, answers)
    assert (whole.accuracy, whole.low, whole.high) == (1, 1, 1)
    value, low, high = whole.change_from(half)
    assert value == 0.5
    assert 0 < low < 0.5 < high
    assert half.change_from(half) == (0, 0, 0)
    assert half.change_from(whole).value == -0.5
    with pytest.raises(ResultError, match="ask both models the same"):
        half.change_from(made_up_report([0], [0]))


def test_an_option_report_saves_loads_and_shows(tiny, tmp_path):
    report = answer_options(tiny, ITEMS, seed=5, draws=30, progress=False)
    loaded = OptionReport.load(report.save(tmp_path / "options.json"))
    np.testing.assert_array_equal(loaded.scores, report.scores)
    assert (loaded.items, loaded.run, repr(loaded)) == (report.items, report.run, repr(report))
    frame = report.to_dataframe()
    assert list(frame["right"]) == [c == i.answer for c, i in zip(report.choices, ITEMS, strict=True)]
    assert frame.loc[0, "option_2"] == ITEMS[0].options[2]
    assert "things" in report._repr_html_()
    assert report.run.model_hash == tiny.weights_hash()
    (tmp_path / "bad.json").write_text('{"kind": "option_report"}')
    with pytest.raises(ResultError, match="is damaged"):
        OptionReport.load(tmp_path / "bad.json")
    with pytest.raises(ResultError, match="does not hold what a change did"):
        TextChange.load(tmp_path / "bad.json")


def test_text_is_read_through_hooks_as_by_the_plain_model(tiny):
    bridge = build_bridge(tiny.hf, tiny.tokenizer, "mine")
    plain = perplexity(tiny, TEXTS, progress=False)
    assert perplexity(ni.load_model(bridge), TEXTS, progress=False) == plain
    bridge.add_hook("blocks.0.hook_resid_pre", lambda value, hook: value)
    assert perplexity(ni.load_model(bridge), TEXTS, progress=False) == pytest.approx(plain, rel=1e-4)


def test_the_embedded_model_knows_english_and_common_things(demo):
    passage = plain_text("val")[2]
    words = passage.split()
    random.Random(0).shuffle(words)
    read, shuffled = (perplexity(demo, [each], progress=False) for each in (passage, " ".join(words)))
    assert read < 40
    assert shuffled > 5 * read
    report = answer_options(demo, four_options(24), progress=False)
    assert report.low > 0.25
    assert report.run.data == "builtin:four_options"
    few = four_options(2)
    np.testing.assert_allclose(answer_options(demo, few, progress=False).scores, naive_scores(demo, few), atol=1e-4)
