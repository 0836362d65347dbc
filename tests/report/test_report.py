"""The report page: what it holds, what it leaves out, and that nothing in it comes from or goes elsewhere."""

import html
import json
import re
import shutil
from dataclasses import replace

import browser
import numpy as np
import pytest
from test_structure import MODEL_LIBRARIES, loaded

import nasa_interp as ni
from nasa_interp.errors import ResultError
from nasa_interp.heads import HeadList
from nasa_interp.report import write_report
from nasa_interp.report.checks import page_problems
from nasa_interp.report.page import script_json
from nasa_interp.report.registry import PARTS
from nasa_interp.report.results import commands
from nasa_interp.report.section import Cell, Table
from nasa_interp.run import RunInfo, write_json
from nasa_interp.scoring import HeadScores
from nasa_interp.view import HeadView, ShownPrompt, Snapshot

EVIL = '<script>document.title="owned"</script> & "quotes" </script>'
RUN = RunInfo("tiny<b>", "six<b>.csv", 6, ("yes_no", "no_yes"), model_hash="abc123", draws=20, seed=7)


def decisions(d) -> ni.decisions.BinaryReport:
    """Twelve decisions on six questions, one of which holds a script."""
    texts = [EVIL, *(f"Question {i}?" for i in range(5))]
    asked = tuple(ni.BinaryQuestion(t, i % 2 == 0, str(i), "facts" if i < 3 else "sums") for i, t in enumerate(texts))
    orders = ("yes_no",) * 6 + ("no_yes",) * 6
    return ni.decisions.BinaryReport(np.asarray(d, dtype=np.float64), np.full(12, 0.4), orders, asked * 2, RUN)


def head_scores() -> HeadScores:
    rng = np.random.default_rng(0)
    asked = [ni.BinaryQuestion("q", True, str(i)) for i in range(6)]
    per_prompt = {order: rng.normal(size=(6, 3, 4)).astype(np.float32) for order in ("yes_no", "no_yes")}
    return HeadScores.from_prompts(per_prompt, asked, RUN, draws=20)


def head_view() -> HeadView:
    rng = np.random.default_rng(0)
    attention = rng.dirichlet(np.ones(8), size=(2, 3)).astype(np.float32)
    heads = HeadList.of(["1.2", "0.3"]).heads
    terms = rng.normal(size=(2, 3)).astype(np.float32)
    tokens = ("<bos>", " Yes", " or", " No", "\n", EVIL, "?", "\n")
    return HeadView(EVIL, "yes_no", tokens, 5, (1, 2), (3, 4), heads, attention, terms, 0.7, RUN)


def changes(change: float) -> dict:
    names = ("mean_logit_difference", "imbalance", "auc")
    return {n: {"before": 1.5, "after": 1.5 + change, "change": change, "low": -1.0, "high": 0.0} for n in names}


def fill(folder) -> None:
    """A run folder with each kind of result."""
    decisions(np.linspace(-0.5, 2, 12)).save(folder / "decisions.json")
    scores = head_scores()
    scores.save(folder / "scores.json")
    scores.top(3, "polarity").save(folder / "heads_polarity.json")
    head_view().save(folder / "tokens.json")
    control = {"effect": -0.5, "random": [0.1, -0.1], "p": 0.33, "matched": True}
    effect = {
        "heads": ["1.2"],
        "intervention": "Zero(positions='all')",
        "changes": changes(-0.5),
        "orders": {"yes_no": changes(-0.4)},
    }
    write_json(folder / "effect.json", {**effect, "control": control, "run": RUN.to_dict()})
    write_json(
        folder / "compare.json", {"table": [{"method": EVIL, "accuracy": 0.5}, {"method": "none", "accuracy": None}]}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("run")
    fill(found)
    write_report(found)
    return found


@pytest.fixture(scope="module")
def page(folder) -> str:
    return (folder / "report.html").read_text()


def test_what_runs_no_model_loads_none_of_its_libraries(folder, tmp_path) -> None:
    """Neither a report nor a list of heads needs torch, which takes seconds to load."""
    commands = [
        ["report", str(folder)],
        ["heads", str(folder / "scores.json"), "--top", "2", "--out", str(tmp_path / "heads.json")],
        ["heads", str(folder / "scores.json"), "--by", "polarity", "--out", str(tmp_path / "heads.csv")],
    ]
    for command in commands:
        code = f"from nasa_interp.cli import main; assert main({command}) == 0"
        assert not loaded(code) & set(MODEL_LIBRARIES), command


def words(page: str) -> str:
    """The page without its scripts."""
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_holds_the_results_in_words_and_numbers(page) -> None:
    text = words(page)
    assert decisions(np.linspace(-0.5, 2, 12)).verdict in text
    top = head_scores().top(5, "polarity")
    assert f"{top[0]} ({top.scores[0]:+.2f})" in text
    assert (
        "Zeroing 1.2 moves the mean of logit(No) - logit(Yes) from +1.50 to +1.00 (change -0.50 [-1.00, +0.00]" in text
    )
    assert "2 layer-matched random sets" in text
    assert "p = 0.33" in text
    assert "answer mass under 0.5" in text


def test_the_page_says_how_to_get_it_again(page) -> None:
    text = words(page)
    assert "nasa-interp decide &#39;tiny&lt;b&gt;&#39; --data &#39;six&lt;b&gt;.csv&#39; --seed 7 --limit 6" in text
    assert "abc123" in text
    assert RUN.versions["torch"] in text


def test_commands_say_all_that_the_numbers_depend_on() -> None:
    template = {"instruction": "Say {first} or {second}.", "yes": "True", "no": "False", "kind": "plain"}
    run = RunInfo("m", "builtin:verify#val", 6, ("no_yes",), template=template, engine="hooked", dtype="bfloat16")
    (said,) = commands("score", run, "s.json", "nats a query")
    for word in ("--order no_yes", "'Say {first} or {second}.'", "--candidates True,False", "--prompt plain",
                 "--engine hooked", "--per query", "--dtype bfloat16"):  # fmt: skip
        assert word in said
    (said,) = commands("decide", replace(run, template={"instruction": ["Yes or No?", "No or Yes?"]}), "d.json")
    assert said.endswith("--instruction 'Yes or No?' --instruction 'No or Yes?'")
    assert commands("decide", replace(run, data="own questions"), "d.json") == ()
    assert commands("decide", replace(run, template={"question": "{question}?"}), "d.json") == ()


def test_the_page_lists_what_was_not_measured(page, tmp_path) -> None:
    missing = page[page.index('id="missing"') :]
    assert "activation patching (patch.json)" in missing
    assert "scores of heads" not in missing
    decisions(np.linspace(-0.5, 2, 12)).save(tmp_path / "decisions.json")
    (tmp_path / "scores.json").write_text("{}")
    alone = write_report(tmp_path, tmp_path / "elsewhere.html").read_text()
    missing = alone[alone.index('id="missing"') :]
    assert "the effect of ablating heads (effect.json)" in missing
    assert "does not hold head scores" in missing


def test_nothing_to_report_on_is_an_error(tmp_path) -> None:
    with pytest.raises(ResultError, match="is no folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ResultError, match="holds no result to report on; write some"):
        write_report(tmp_path)
    (tmp_path / "decisions.json").write_text("{")
    with pytest.raises(ResultError, match="can't be read as JSON"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["decisions.json"]


def test_every_text_from_data_is_escaped(page) -> None:
    assert EVIL not in page
    assert page.count("<script") == page.count("</script>")
    assert "&lt;script&gt;document.title" in page
    assert "tiny<b>" not in page


def test_json_in_a_script_cannot_end_it() -> None:
    value = {"a": EVIL, "b": ["<!--", "\u2028", "&"]}
    written = script_json(value)
    assert not set("<>&\u2028") & set(written)
    assert json.loads(written) == value


def test_plotly_is_there_once_and_only_known_scripts_run(page) -> None:
    assert page.count("plotly.js v") == 1
    assert len(re.findall(r"'sha256-[^']+'", html.unescape(page[: page.index("</head>")]))) == 3
    assert "default-src 'none'" in page
    assert len(page.encode()) < 8_000_000


def test_the_checks_find_what_is_wrong(page) -> None:
    assert page_problems(page) == []
    wrong = {
        "<h1>a</h1><h3>b</h3>": "level 3 follows one of level 1",
        "<h2>a</h2>": "needs one heading of the first level",
        "<h1>a</h1><script src='https://x.y/z.js'></script>": "points outside",
        "<h1>a</h1><a href='https://x.y'>b</a>": "points outside",
        "<h1>a</h1><a href='#b'>b</a>": "'b' is pointed at and not there",
        "<h1>a</h1><p id='a'></p><p id='a'></p>": "'a' is given twice",
        "<h1>a</h1><div role='img'></div>": "picture without a text",
        "<h1>a</h1><p onclick='x()'></p>": "script in an attribute",
        "<h1>a</h1>" + "x" * 8_000_000: "more than 8",
    }
    for text, problem in wrong.items():
        assert any(problem in found for found in page_problems(text)), text[:60]


def test_cells_sort_by_value_and_show_short_forms() -> None:
    assert Cell.of(0.12345) == Cell("0.123", 0.12345, True)
    assert Cell.of(np.float32(-1e-9)).text == "0.000"
    assert Cell.of(float("nan")) == Cell("", "", True)
    assert Cell.of(True).text == "yes"
    assert Cell.of(["a", 1]).text == "a, 1"
    table = Table.of(head_scores().to_dataframe().drop(columns="head"), "t")
    assert table.columns[2:4] == ("values", "values low")
    assert all(table.is_number(column) for column in range(len(table.columns)))


def test_unknown_tables_are_drawn_as_they_are(page, tmp_path) -> None:
    assert "Alignment beside its baselines" in page
    write_json(
        tmp_path / "mine.json", {"kind": "my_own", "deep": {"rows": [{"x_y": 1.5, "auc": None}]}, "run": RUN.to_dict()}
    )
    text = write_report(tmp_path).read_text()
    assert ">My own</h2>" in text
    assert "Deep rows" in text
    assert "From mine.json." in text
    assert ">x y</button>" in text
    assert ">AUC</button>" in text


def test_rows_that_are_known_get_their_figures(tmp_path) -> None:
    row = {"ranking": "values", "k": 5, "data": "d", "mean_logit_difference_change": -0.5, "auc_change": None}
    rows = [{**row, "order": order} for order in ("yes_no", "no_yes")]
    write_json(
        tmp_path / "contest.json", {"kind": "ranking_contest", "table": rows, "winners": {}, "run": RUN.to_dict()}
    )
    step = {"head": "1.2 0.1", "accepted": True, "imbalance_before": 0.5, "imbalance_after": 0.4, "steps": 3}
    check = {"accuracy": 0.5, "imbalance": {"yes_no": 0.5, "no_yes": -0.6}}
    look = {"head": "1.2 0.1", "step": 3, "kept": True, "imbalance_yes_no": 0.4, "auc": 0.6, "answer_mass": 0.5}
    aligned = {
        "kind": "alignment",
        "table": [step],
        "looks": [look],
        "base": check,
        "tuned": check,
        "run": RUN.to_dict(),
    }
    write_json(tmp_path / "align.json", aligned)
    cell = {"layer": 0, "index": 1, "place": "all", "effect": 0.5}
    order = {"pairs": 2, "difference": -1.0, "table": [{**cell, "head": "0.1"}, {**cell, "head": "1.1", "layer": 1}]}
    patch = {"kind": "patch_summary", "pair_kind": "neutral", "orders": {"yes_no": {**order, "run": RUN.to_dict()}}}
    write_json(tmp_path / "patch.json", patch)
    text = write_report(tmp_path).read_text()
    assert text.count('class="plot"') == 3
    assert "Tuned 2 heads together; the change was kept." in text
    assert "from -0.60 to -0.60" in text
    assert "0.1 (+0.500), 1.1 (+0.500)" in text


def test_a_price_is_said_and_what_was_generated_is_shown(tmp_path) -> None:
    row = {"measure": "auc_within_orders", "before": 0.5, "after": 0.6, "change": 0.1, "low": 0.0, "high": 0.2}
    own = [row | {"measure": f"imbalance ({order})"} for order in ("yes_no", "no_yes")]
    other = [row | {"measure": f"imbalance (other instruction, {order})"} for order in ("yes_no", "no_yes")]
    content = {
        "kind": "price",
        "table": [row, *own, *other],
        "said": [[{"question": "Q?", "text": "No. <b>"}], [{"text": "Yes. <b>"}]],
    }
    write_json(tmp_path / "price.json", content)
    text = words(write_report(tmp_path).read_text())
    assert "Before and after the change: AUC within orders 0.500 to 0.600 (change +0.100 [+0.000, +0.200])." in text
    said = "The same asked in other words, imbalance order by order: other instruction +0.50 / +0.50 to +0.60 / +0.60."
    assert text.count(said) == 2  # in the summary, too
    assert "What it says in words of its own" in text
    assert "No. &lt;b&gt;" in text
    assert "Yes. &lt;b&gt;" in text


def test_the_demos_command_and_times_are_told(folder, tmp_path) -> None:
    shutil.copy(folder / "decisions.json", tmp_path)
    write_json(tmp_path / "demo.json", {"command": "nasa-interp demo --out a", "seconds": {"load": 1.0, "bias": 2.5}})
    text = write_report(tmp_path).read_text()
    assert "The stages before this page took 4 s." in text
    assert "nasa-interp demo --out a" in text
    (tmp_path / "demo.json").write_text("{}")
    assert "demo.json is damaged" in words(write_report(tmp_path).read_text())


def test_before_and_after_are_drawn_together(folder, tmp_path) -> None:
    shutil.copy(folder / "decisions.json", tmp_path)
    decisions(np.linspace(-2, 1, 12)).save(tmp_path / "decisions_after.json")
    text = write_report(tmp_path).read_text()
    assert "After the change:" in text
    assert "Measures before the change" in text
    assert "precision after" in text


def test_every_part_names_its_files() -> None:
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    assert all(part.files for part in PARTS)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.Browser(browser.require_chromium(), tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def opened(chromium, folder):
    """The page in a window, all its figures drawn."""
    found = chromium.open(folder / "report.html")
    found.evaluate("dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint'))")
    found.wait_for("document.querySelectorAll('.plot .main-svg').length >= document.querySelectorAll('.plot').length")
    return found


def test_the_page_draws_all_figures_without_error_or_request(opened) -> None:
    assert opened.evaluate("document.querySelectorAll('.plot').length") == 8
    assert opened.evaluate("[...document.querySelectorAll('.plot')].every(e => e.querySelector('.main-svg'))")
    assert opened.errors == []
    assert opened.requests == []


def test_figures_far_down_are_drawn_without_scrolling(chromium, folder) -> None:
    """So a picture of the whole page has them all."""
    page = chromium.open(folder / "report.html")
    page.wait_for("[...document.querySelectorAll('.plot')].every(box => box.querySelector('.main-svg'))", 60)
    assert page.evaluate("scrollY") == 0


def test_a_request_would_be_seen_and_stopped(chromium, tmp_path) -> None:
    """The check above can fail."""
    (tmp_path / "bad.html").write_text(
        "<script src='http://example.org/a.js'></script><script>undefinedName()</script>"
    )
    bad = chromium.open(tmp_path / "bad.html")
    bad.browser.pause(0.3)
    assert bad.requests == ["http://example.org/a.js"]
    assert any("undefinedName" in error for error in bad.errors)


def test_a_script_that_is_not_the_pages_own_does_not_run(chromium, page, tmp_path) -> None:
    """Were escaping ever to fail, the page's policy would still stop the script."""
    (tmp_path / "evil.html").write_text(page.replace("</main>", f"{EVIL}</main>"))
    evil = chromium.open(tmp_path / "evil.html")
    assert evil.evaluate("document.title") == "Yes-no bias of tiny<b>"
    evil.browser.pause(0.3)
    assert any("Content Security Policy" in error for error in evil.errors)


def test_a_script_in_a_question_is_text(opened) -> None:
    assert opened.evaluate("document.title") == "Yes-no bias of tiny<b>"
    assert EVIL in opened.evaluate("document.querySelector('td').closest('main').textContent")


def test_tables_sort_by_number_and_say_so(opened) -> None:
    table = "document.getElementById('heads-table-1').closest('table')"
    column = f"[...{table}.tBodies[0].rows].map(r => r.cells[4].textContent)"
    header = f"{table}.tHead.rows[0].cells[4]"
    assert opened.evaluate(f"{header}.textContent") == "polarity"
    opened.evaluate(f"{header}.querySelector('button').click()")
    found = [float(text) for text in opened.evaluate(column)]
    assert found == sorted(found, reverse=True)
    assert opened.evaluate(f"{header}.ariaSort") == "descending"
    opened.evaluate(f"{header}.querySelector('button').click()")
    assert [float(text) for text in opened.evaluate(column)] == found[::-1]
    assert opened.evaluate(f"{header}.ariaSort") == "ascending"
    others = opened.evaluate(f"[...{header}.parentElement.cells].filter(c => c.ariaSort !== 'none').length")
    assert others == 1


def test_empty_cells_sort_last_in_either_direction(opened) -> None:
    table = "document.getElementById('file-compare-table-1').closest('table')"
    for _ in range(2):
        opened.evaluate(f"{table}.tHead.rows[0].cells[1].querySelector('button').click()")
        assert opened.evaluate(f"[...{table}.tBodies[0].rows].at(-1).cells[0].textContent") == "none"


def test_hovering_a_cell_names_the_head(opened) -> None:
    by_layer = "e.data[0].type === 'heatmap' && e.layout.yaxis.title.text === 'layer'"
    heat = opened.evaluate(f"[...document.querySelectorAll('.plot')].find(e => {by_layer}).id")
    opened.hover(f"#{heat} .nsewdrag", 0.6, 0.5)
    opened.wait_for(f"document.querySelector('#{heat} .hoverlayer text')", 10)
    assert re.match(
        r"1\.2: -?\d\.\d{3} \[", opened.evaluate(f"document.querySelector('#{heat} .hoverlayer').textContent")
    )


def test_clicking_a_heat_maps_cell_opens_that_head(opened) -> None:
    """Its numbers, the effect that it had part in, and the prompts that were kept under it."""
    click = (
        "[...document.querySelectorAll('.plot')]"
        ".find(box => box.data?.[0]?.type === 'heatmap')"
        ".emit('plotly_click', {points: [{customdata: ['HEAD', 0, 0]}]})"
    )
    heading = "document.querySelector('.ni-detail h3').textContent"
    opened.evaluate(click.replace("HEAD", "1.2"))
    opened.wait_for(f"{heading} === 'Head 1.2'")
    numbers = opened.evaluate("document.querySelector('.ni-numbers').textContent")
    assert f"{head_scores().polarity[1, 2]:+.3f}".replace("-", "−") in numbers
    assert opened.evaluate("document.querySelectorAll('.ni-token').length") == 8
    assert EVIL in opened.evaluate("document.querySelector('.ni-prompt').textContent")
    assert "1.2 under Zero" in opened.evaluate("document.querySelector('.ni-effect').textContent")
    opened.evaluate(click.replace("HEAD", "2.3"))
    opened.wait_for(f"{heading} === 'Head 2.3'")
    assert "No prompt was kept" in opened.evaluate("document.querySelector('.ni-prompt').textContent")
    opened.evaluate(click.replace("HEAD", "9.9"))
    assert opened.evaluate(heading) == "Head 2.3"
    assert opened.errors == []


def test_what_an_explorer_saved_is_completed_from_the_folder(folder, tmp_path) -> None:
    """The effect of its heads, and a sweep over all heads, where they were measured apart."""
    shutil.copytree(folder, tmp_path / "run")
    scores = head_scores()
    shown = [ShownPrompt.of(head_view())]
    Snapshot.of({"scores": scores}, [shown], RUN, HeadList.of(["0.3"])).save(tmp_path / "run" / "explorer.json")
    grid = np.full((3, 4), 0.25)
    swept = ni.HeadTable({"values": grid}, {"values": np.stack([grid, grid])}, RUN, quantity="zero ablation")
    swept.save(tmp_path / "run" / "sweep.json")
    text = write_report(tmp_path / "run").read_text()
    (data,) = re.findall(r'<script type="application/json" id="explorer-data">(.*?)</script>', text)
    found = json.loads(data)
    assert [grid["name"] for grid in found["grids"]] == ["values", "polarity", "recency", "zero ablation"]
    assert found["effects"][0]["heads"] == ["1.2"]
    assert found["chosen"] == ["0.3"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_cut_off_and_colours_follow(opened, width, dark) -> None:
    opened.look(width, dark, settle=1.5)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    inside = """[...document.querySelectorAll('.plot')].flatMap(plot => {
      const box = plot.getBoundingClientRect();
      return [...plot.querySelectorAll('.main-svg text')].filter(t => {
        const b = t.getBoundingClientRect();
        return b.width && (b.left < box.left - 1 || b.right > box.right + 1 || b.bottom > box.bottom + 1);
      }).map(t => plot.id + ': ' + t.textContent);
    })"""
    assert opened.evaluate(inside) == []
    paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    drawn = opened.evaluate("document.querySelector('.plot .main-svg').style.background")
    assert paper == drawn == ("rgb(22, 24, 29)" if dark else "rgb(255, 255, 255)")


def test_the_page_can_be_used_by_keyboard(opened) -> None:
    assert opened.evaluate(
        "document.querySelectorAll('th button').length === document.querySelectorAll('th:not(.ni-explorer th)').length"
    )
    regions = "[...document.querySelectorAll('.scroll')]"
    assert opened.evaluate(
        f"{regions}.every(r => r.tabIndex === 0 && document.getElementById(r.getAttribute('aria-labelledby')))"
    )
    assert opened.evaluate(
        "[...document.querySelectorAll('.plot')].every(p => p.getAttribute('aria-label').length > 40)"
    )


@pytest.mark.parametrize(("sign", "bias", "side"), [(1, "Negative", "No"), (-1, "Positive", "Yes")])
def test_the_words_follow_the_sign_that_was_measured(tmp_path, sign, bias, side) -> None:
    asked = tuple(ni.BinaryQuestion(f"Question {i}?", i % 2 == 0, str(i)) for i in range(12))
    report = ni.decisions.BinaryReport(np.full(12, 2.0 * sign), np.full(12, 0.9), ("yes_no",) * 12, asked, RUN)
    report.save(tmp_path / "decisions.json")
    scores = head_scores()
    scores.save(tmp_path / "scores.json")
    text = words(write_report(tmp_path).read_text())
    assert f"<h1>{bias} bias of tiny" in text
    assert f"Which heads attend to {side}<" in text
    top = scores.looking("polarity", toward=report.toward)[:5]
    assert f"By polarity the leading heads toward {side} on" in text
    assert f"{top[0]} ({top.scores[0]:+.2f})" in text
    # A saved list says for itself which way it looks; where nothing says so, heads of either side lead by size.
    scores.top(3, "polarity", toward="bias").save(tmp_path / "heads.json")
    assert "heads.json: 3 heads by polarity, toward either" in words(write_report(tmp_path).read_text())
    for name in ("decisions.json", "heads.json"):
        (tmp_path / name).unlink()
    text = words(write_report(tmp_path).read_text())
    assert "<h1>Yes-no bias of tiny" in text
    assert "Which heads attend to No or Yes<" in text
