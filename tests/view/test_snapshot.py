"""The explorer's page without a kernel: what was kept is looked up, nothing is fetched, and data is never markup."""

import dataclasses

import browser
import numpy as np
import pytest

from nasa_interp import BinaryQuestion, RunInfo, view_heads
from nasa_interp.errors import HeadError, ResultError
from nasa_interp.scoring import HeadScores
from nasa_interp.view import ShownPrompt, Snapshot
from nasa_interp.view.marks import MOST, leans, shades

EVIL = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>'
HEADS = [(layer, head) for layer in range(2) for head in range(4)]


@pytest.fixture(scope="module")
def shown(tiny, questions):
    orders = ("yes_no", "no_yes")
    return [ShownPrompt.of(view_heads(tiny, questions[0], HEADS, order)) for order in orders]


@pytest.fixture(scope="module")
def snapshot(shown) -> Snapshot:
    rng = np.random.default_rng(0)
    asked = [BinaryQuestion("q", True, str(i)) for i in range(6)]
    per_prompt = {order: rng.normal(size=(6, 2, 4)).astype(np.float32) for order in ("yes_no", "no_yes")}
    run = RunInfo("tiny", "six", 6, ("yes_no", "no_yes"), draws=20)
    evil = [dataclasses.replace(one, question=EVIL, tokens=(EVIL, *one.tokens[1:])) for one in shown]
    return Snapshot.of({"scores": HeadScores.from_prompts(per_prompt, asked, run)}, [shown, evil], run)


def test_marks_follow_attention_and_contributions() -> None:
    found = shades(np.array([9.0, 0.0, 1.0, 0.25], dtype=np.float32))
    np.testing.assert_allclose(found, [MOST, 0, MOST, MOST / 2])
    np.testing.assert_allclose(leans(np.array([-2.0, np.nan, 1.0])), [-1, np.nan, 0.5])
    assert np.isnan(leans(np.array([np.nan]))).all()
    np.testing.assert_array_equal(leans(np.zeros(2)), 0)


def test_a_shown_prompt_holds_the_views_numbers(tiny, questions, shown) -> None:
    view = view_heads(tiny, questions[0], ["1.2"], "no_yes")
    content = shown[1].head_content("1.2")
    np.testing.assert_allclose(content["received"], view.received[0], atol=1e-4)
    assert content["nas"] == pytest.approx(float(view.nas[0]), abs=1e-4)
    assert shown[1].prompt_content()["roles"] == [view.role(position) for position in range(len(view.tokens))]
    with pytest.raises(HeadError, match=r"head 7\.7 isn't among the 8"):
        shown[1].head_content("7.7")


def test_a_page_that_would_grow_too_big_keeps_the_heads_that_matter(snapshot, shown, monkeypatch) -> None:
    monkeypatch.setattr("nasa_interp.view.snapshot.MOST_NUMBERS", 1)
    run = snapshot.run
    grid = np.zeros((2, 4))
    grid[1, 3] = -5.0
    table = HeadScores({"values": grid}, {"values": np.zeros((2, 2, 4))}, run)
    assert list(Snapshot.of({"scores": table}, [shown], run).prompts[0]["heads"]) == ["1.3"]
    with pytest.raises(HeadError, match="without numbers"):
        Snapshot.of({}, [shown], run)


def test_a_damaged_file_is_named(snapshot, tmp_path) -> None:
    assert Snapshot.load(snapshot.save(tmp_path / "explorer.json")).size == (2, 4)
    (tmp_path / "explorer.json").write_text('{"kind": "explorer_snapshot"}')
    with pytest.raises(ResultError, match="damaged"):
        Snapshot.load(tmp_path / "explorer.json")
    (tmp_path / "explorer.json").write_text('{"kind": "heads"}')
    with pytest.raises(ResultError, match="does not hold an explorer's snapshot"):
        Snapshot.load(tmp_path / "explorer.json")


def test_the_page_works_offline_and_shows_data_as_text(snapshot, tmp_path, tmp_path_factory) -> None:
    path = snapshot.save_page(tmp_path / "explorer.html")
    with browser.Browser(browser.require_chromium(), tmp_path_factory.mktemp("profile")) as chromium:
        page = chromium.open(path)
        page.wait_for("document.querySelectorAll('.ni-cell').length === 8")
        page.click('[data-head="1.2"]')
        assert page.evaluate("document.querySelector('.ni-detail h3').textContent") == "Head 1.2"
        shown = page.evaluate("[...document.querySelectorAll('.ni-token')].map(e => e.title)")
        assert f"attention {snapshot.prompts[0]['heads']['1.2'][0]['received'][3]:.4f}" in shown[3]
        page.click('[data-column="recency"]')
        assert "recency" in page.evaluate("document.querySelector('.ni-title').textContent")
        page.click(".ni-add")
        assert page.evaluate("document.querySelector('.ni-chosen').textContent") == "1.2×"
        page.evaluate("(e => { e.value = 1; e.dispatchEvent(new Event('change')) })(document.querySelector('select'))")
        assert EVIL in page.evaluate("document.querySelector('.ni-prompt').textContent")
        assert page.evaluate("document.images.length") == 0
        assert "owned" not in page.evaluate("document.title")
        assert page.evaluate("document.querySelector('[data-do]:not([data-do=stop])')") is None
        assert page.errors == []
        assert page.requests == []
