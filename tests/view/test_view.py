"""One prompt under the lens: its contributions are the score's, and what it draws is text, never markup."""

import dataclasses

import browser
import families
import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nasa_interp import load_model, score_heads
from nasa_interp.errors import HeadError, ModelError, ResultError
from nasa_interp.prompts import build_prompts
from nasa_interp.scoring import attention_patterns
from nasa_interp.view import HeadView, view_heads

EVIL = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>'


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def view(tiny, questions):
    return view_heads(tiny, questions[1], ["1.2", "0.3"])


@pytest.fixture
def evil(view):
    tokens = list(view.tokens)
    tokens[2], tokens[view.first_query + 1] = EVIL, "<b>bold</b>"
    return dataclasses.replace(view, tokens=tuple(tokens), question=EVIL)


@pytest.mark.parametrize("order", ["yes_no", "no_yes"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gpt_neox"])
def test_contributions_sum_to_the_heads_score(family, order, questions) -> None:
    """Mistral's window is so short that most queries don't count; those are blank, not 0."""
    model = load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())
    heads = [f"{layer}.{index}" for layer in range(model.n_layers) for index in range(model.n_heads)]
    view = view_heads(model, questions[0], heads, order)
    scores = score_heads(model, questions[:1], order, progress=False).per_prompt[order][0].ravel()
    assert (np.isnan(scores) == np.isnan(view.nas)).all()
    size = np.nansum(np.abs(view.contributions), axis=1)
    assert np.nanmax(np.abs(view.nas - scores) - 1e-4 * size) <= 0
    assert np.isnan(view.contributions).any() == (family == "mistral")


def test_contributions_sum_to_the_score_on_the_demo_model(demo, questions) -> None:
    view = view_heads(demo, questions[0], ["17.7", "14.4"])
    scores = score_heads(demo, questions[:1], "yes_no", progress=False)
    expected = np.array([scores["17.7"], scores["14.4"]])
    assert (np.abs(view.nas - expected) <= 1e-4 * np.abs(view.contributions).sum(1)).all()


def test_a_view_is_the_patterns_of_its_queries(tiny, questions, view) -> None:
    prompts = build_prompts(tiny, [questions[1]])
    patterns = attention_patterns(tiny, prompts, ["1.2", "0.3"])
    np.testing.assert_array_equal(view.attention, patterns.values[0][:, int(prompts.first_query[0]) :])
    np.testing.assert_allclose(view.attention.sum(2), 1.0, atol=1e-5)
    assert "".join(view.tokens[slice(*view.yes_span)]).strip() == "Yes"
    assert "".join(view.tokens[slice(*view.no_span)]).strip() == "No"
    assert view.role(view.yes_span[0]) == "yes"
    assert view.role(view.no_span[0]) == "no"
    assert [view.role(view.first_query - 1), view.role(view.first_query)] == ["", "query"]
    logits = tiny.answer_logits(prompts.tokens, prompts.mask)[0]
    assert view.logit_difference == pytest.approx(float(logits[prompts.no_token] - logits[prompts.yes_token]), abs=1e-4)


def test_a_text_alone_is_a_question(tiny, questions, view) -> None:
    again = view_heads(tiny, questions[1].question, ["1.2", "0.3"])
    np.testing.assert_array_equal(again.contributions, view.contributions)


def test_the_table_has_a_row_a_head_and_query(view) -> None:
    frame = view.to_dataframe()
    assert len(frame) == 2 * (len(view.tokens) - view.first_query)
    np.testing.assert_allclose(frame.groupby("head", sort=False).contribution.sum(), view.nas, rtol=1e-5)
    first = frame.iloc[0]
    assert (first["head"], first.position) == ("1.2", view.first_query)
    assert first.attention_no == view.attention[0, 0, slice(*view.no_span)].mean()


def test_saving_is_exact(view, tmp_path) -> None:
    view.contributions[0, 0] = np.nan
    again = HeadView.load(view.save(tmp_path / "tokens.json"))
    for field in dataclasses.fields(HeadView):
        np.testing.assert_equal(getattr(again, field.name), getattr(view, field.name))
    (tmp_path / "tokens.json").write_text('{"kind": "head_view"}')
    with pytest.raises(ResultError, match="damaged"):
        HeadView.load(tmp_path / "tokens.json")
    (tmp_path / "tokens.json").write_text('{"kind": "heads"}')
    with pytest.raises(ResultError, match="does not hold a view"):
        HeadView.load(tmp_path / "tokens.json")


def test_wrong_heads_are_refused(tiny, questions, view) -> None:
    with pytest.raises(HeadError, match=r"9\.0 is outside"):
        view_heads(tiny, questions[0], ["9.0"])
    with pytest.raises(ModelError, match="no heads to view"):
        view_heads(tiny, questions[0], [])
    with pytest.raises(HeadError, match=r"0\.0 is not in this view; it holds 1\.2, 0\.3"):
        view.to_figure("0.0")


def test_figures_show_each_token_and_blank_what_is_no_query(view) -> None:
    brief = view.to_figure()
    assert isinstance(brief, go.Figure)
    attention, added = brief.data
    np.testing.assert_array_equal(attention.z, view.received.T)
    assert np.isnan(added.z[: view.first_query]).all()
    np.testing.assert_array_equal(added.z[view.first_query :], view.contributions.T)
    assert len(brief.layout.yaxis.ticktext) == len(view.tokens)
    whole = view.to_figure("0.3").data[0]
    assert np.isnan(whole.z[-1, 0])
    assert whole.z[0, 0] == view.attention[1, 0, 0]


def test_text_of_tokens_is_never_markup(evil) -> None:
    for text in (evil._repr_html_(), str(evil.to_figure().layout), str(evil.to_figure("0.3").data[0].customdata)):
        assert "<script" not in text
        assert "<img" not in text
        assert "<b>bold" not in text
    assert "&lt;script&gt;" in evil.to_html()


def test_shades_follow_attention(view) -> None:
    page = view.to_html()
    assert page.count("<h4>") == 2
    assert page.count('class="t yes"') == 2
    assert page.count("--a:") == 2 * len(view.tokens)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.Browser(browser.require_chromium(), tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_circuitsvis_runs_without_a_request_and_runs_no_token(evil, chromium, tmp_path) -> None:
    local = evil.to_circuitsvis()
    assert "unpkg" not in local.fragment
    page = chromium.open(local.save(tmp_path / "view.html"))
    page.wait_for("document.body.innerText.includes('1.2 (NAS')")
    page.wait_for("document.querySelector('canvas')")
    assert page.evaluate("document.images.length") == 0
    assert page.evaluate("document.title") == "Attention"
    assert page.errors == []
    assert page.requests == []


def test_the_plain_page_shows_tags_as_text(evil, chromium, tmp_path) -> None:
    (tmp_path / "plain.html").write_text(f"<!doctype html><meta charset=utf-8><body>{evil._repr_html_()}")
    page = chromium.open(tmp_path / "plain.html")
    assert EVIL in page.evaluate("document.body.textContent")
    assert page.evaluate("document.title") == ""
    assert page.evaluate("document.images.length") == 0
    assert page.errors == []
