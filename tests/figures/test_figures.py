"""Figures: what is drawn, where, and that what was not measured stays blank."""

import dataclasses
import os
import time

import browser
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import psutil
import pytest

import nasa_interp as ni
from nasa_interp import figures
from nasa_interp.errors import ResultError
from nasa_interp.figures.theme import PAPER, TEMPLATES, safe
from nasa_interp.head_table import HeadTable
from nasa_interp.heads import Head
from nasa_interp.run import RunInfo
from nasa_interp.scoring import HeadScores, rank_overlap

RUN = RunInfo("tiny", "six", 6, ("yes_no", "no_yes"), draws=20)
MEASURES = ("mean_logit_difference", "imbalance", "auc")


@pytest.fixture
def scores():
    """Made-up scores of 2 layers of 4 heads in both orders."""
    rng = np.random.default_rng(0)
    asked = [ni.BinaryQuestion("q", True, str(i)) for i in range(6)]
    per_prompt = {order: rng.normal(size=(6, 2, 4)).astype(np.float32) for order in ("yes_no", "no_yes")}
    return HeadScores.from_prompts(per_prompt, asked, RUN, draws=20)


def report_of(d, questions, run=RUN):
    orders = ("yes_no",) * 6 + ("no_yes",) * 6
    return ni.decisions.BinaryReport(
        np.asarray(d, dtype=np.float64), np.full(12, 0.9), orders, tuple(questions) * 2, run
    )


def effects(ks=(1, 2, 3), shift=0.0):
    rows = []
    for k in ks:
        row = {"k": k}
        for name in MEASURES:
            row |= {f"{name}_change": shift - k, f"{name}_low": shift - k - 0.5, f"{name}_high": shift - k + 0.5}
        rows.append(row)
    return pd.DataFrame(rows)


def contest():
    return pd.concat(
        effects().assign(ranking=ranking, data=data, order=order)
        for ranking in ("values", "random")
        for data in ("a", "b")
        for order in ("yes_no", "no_yes")
    )


STEPS = pd.DataFrame(
    {
        "head": ["1.2", "0.1"],
        "accepted": [True, False],
        "imbalance_before": [0.5, 0.4],
        "imbalance_after": [0.4, 0.1],
        "perplexity_ratio": [1.0, 1.01],
    }
)


CHECKPOINTS = pd.DataFrame(
    {
        "head": ["1.2", "1.2", "1.2", "0.1", "0.1"],
        "step": [0, 4, 8, 0, 4],
        "kept": [False, False, True, False, False],
        "imbalance_yes_no": [0.5, 0.3, 0.1, 0.1, 0.0],
        "imbalance_no_yes": [0.5, 0.4, 0.2, 0.2, -0.3],
        "auc": [0.6, 0.6, 0.7, 0.7, 0.5],
        "accuracy": [0.5, 0.5, 0.6, 0.6, 0.5],
        "answer_mass": 0.5,
    }
)


def methods():
    rows = []
    for method, variant in (("base", ""), ("offset", ""), ("nasa", "seed 0"), ("nasa", "seed 1")):
        row = {"method": method, "variant": variant}
        for name in ("imbalance_yes_no", "imbalance_no_yes", "accuracy", "auc_within_orders"):
            value = 0.5 + 0.1 * len(rows)
            row |= {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.05}
        rows.append(row)
    return pd.DataFrame(rows)


def every_figure(scores, questions):
    """One of each, for the laws that hold for all."""
    report, after = report_of(np.linspace(-1, 1, 12), questions), report_of(np.linspace(-2, 1, 12), questions)
    grid = np.arange(8.0).reshape(2, 4) - 4
    return [
        figures.head_heatmap(scores, "polarity", scores.top(2)),
        figures.head_heatmap(grid, title="Zero ablation", unit="logits", run=RUN),
        figures.patch_heatmap(grid, title="Patching", unit="logits", run=RUN),
        figures.patch_heatmap(grid, ["1.2", "0.1"], ["a", "b", "b", "d"], title="Patching", unit="logits", run=RUN),
        figures.polarity_against_recency(scores, scores.top(2, "polarity")),
        figures.overlap_scatter(rank_overlap(scores, scores, 3), scores, scores),
        figures.contest_curves(contest(), run=RUN),
        figures.ablation_curve(effects(), [effects(shift=1.0), effects(shift=2.0)], run=RUN),
        figures.alignment_log(STEPS, run=RUN),
        figures.validation_curves(CHECKPOINTS, run=RUN),
        figures.method_comparison(methods(), run=RUN),
        figures.cost_curves(effects(), "k", ["auc_change"], run=RUN),
        figures.decision_histogram(report, after),
        figures.precision_recall(report, after),
        figures.calibration_curve(report, after),
    ]


def test_each_figure_says_what_was_measured_on_what(scores, questions) -> None:
    for figure in every_figure(scores, questions):
        caption = figure.layout.title.subtitle.text.replace("<br>", " ")
        assert RUN.summary() in caption, caption
        assert "12 prompts" in caption
        assert figure.layout.title.text


def test_axes_have_titles_and_nothing_is_shown(scores, questions, monkeypatch) -> None:
    monkeypatch.setattr(go.Figure, "show", lambda self: pytest.fail("shown unasked"))
    for figure in every_figure(scores, questions):
        last = [axis for axis in figure.select_xaxes()][-1]
        assert last.title.text
        # an axis that only repeats its neighbour's has no labels either
        assert all(axis.title.text or axis.showticklabels is False for axis in figure.select_yaxes())


def test_a_dark_figure_is_a_copy_with_other_paper(scores) -> None:
    figure = figures.head_heatmap(scores)
    dark = figures.themed(figure, "dark")
    assert dark.layout.template.layout.paper_bgcolor == PAPER["dark"]
    assert figure.layout.template.layout.paper_bgcolor == PAPER["light"]
    assert dark.layout.template.data.heatmap[0].colorscale != figure.layout.template.data.heatmap[0].colorscale
    assert figure.data[0].colorscale is None


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_paper(theme) -> None:
    layout = TEMPLATES[theme].layout
    assert contrast(layout.font.color, layout.paper_bgcolor) >= 7
    assert contrast(layout.xaxis.linecolor, layout.paper_bgcolor) >= 3


@pytest.mark.parametrize("colour", figures.theme.SERIES[:3])
def test_lines_stand_out_from_both_papers(colour) -> None:
    assert min(contrast(colour, paper) for paper in PAPER.values()) >= 3


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_heatmap_has_layers_down_heads_across_and_zero_in_the_middle(scores) -> None:
    scores.values[0, 1] = np.nan
    figure = ni.head_heatmap(scores, "values", scores.top(2))
    heat = figure.data[0]
    np.testing.assert_array_equal(heat.z, scores.values)
    assert heat.zmid == 0
    assert heat.zmin == -heat.zmax
    assert heat.hoverongaps is False
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.yaxis.title.text == "layer"
    assert heat.customdata[1][2][0] == "1.2"
    assert tuple(heat.customdata[1][2][1:]) == tuple(scores.intervals["values"][:, 1, 2])
    assert len(figure.layout.shapes) == 2
    best = scores.top(1)[0]
    assert (figure.layout.shapes[0].x0, figure.layout.shapes[0].y0) == (best.index - 0.5, best.layer - 0.5)


def test_any_table_of_heads_is_a_heat_map(scores) -> None:
    effects = HeadTable.from_prompts(scores.per_prompt, [ni.BinaryQuestion("q", True, str(i)) for i in range(6)], RUN,
                                     quantity="zero ablation", sign=-1)  # fmt: skip
    figure = figures.head_heatmap(effects)
    assert np.array_equal(figure.data[0].z, effects.values)
    assert "zero ablation by head" in figure.layout.title.text
    assert "polarity" not in figure.layout.title.text


def test_what_was_not_measured_is_blank_not_zero(scores) -> None:
    scores.polarity[:] = np.nan
    assert np.isnan(figures.head_heatmap(scores, "polarity").data[0].z).all()
    assert not any(np.isfinite(trace.y).any() for trace in figures.polarity_against_recency(scores).data)


def test_a_bare_grid_needs_words() -> None:
    with pytest.raises(ResultError, match="title=, unit= and run="):
        figures.head_heatmap(np.zeros((2, 4)), title="Zero ablation", unit="logits")
    with pytest.raises(ResultError, match="1 rows and 0 columns are named in a grid of"):
        figures.patch_heatmap(np.zeros((2, 4)), rows=["1.2"], title="t", unit="u", run=RUN)


def test_scatter_shows_each_head_once_and_names_the_marked_ones_first(scores) -> None:
    chosen = [Head(0, 0), Head(1, 3)]
    figure = figures.polarity_against_recency(scores, chosen, names=2)
    rest, marked = figure.data
    assert set(marked.customdata) == {"0.0", "1.3"}
    assert len(rest.customdata) == 6
    place = list(marked.customdata).index("1.3")
    assert (marked.x[place], marked.y[place]) == (scores.recency[1, 3], scores.polarity[1, 3])
    assert {name for name in [*marked.text, *rest.text] if name} <= {"0.0", "1.3"}


def test_contest_has_a_panel_an_order_and_its_intervals(scores) -> None:
    frame = contest()
    figure = figures.contest_curves(frame, run=RUN)
    assert len(figure.data) == 8
    assert sum(len(trace.x) for trace in figure.data) == len(frame)
    assert {trace.xaxis for trace in figure.data} == {"x", "x2"}
    assert [trace.name for trace in figure.data if trace.showlegend] == ["values", "random"]
    k, low, high, auc_low, auc_high = figure.data[0].customdata[1]
    assert (k, low, high, auc_low, auc_high) == (2, -2.5, -1.5, -2.5, -1.5)


def test_curve_draws_the_mean_of_random_sets_and_their_reach() -> None:
    figure = figures.ablation_curve(effects(), [effects(shift=1.0), effects(shift=2.0)], run=RUN, measures=("auc",))
    reach, mean, interval, ranked = figure.data
    np.testing.assert_allclose(mean.y, 1.5 - np.arange(1, 4))
    np.testing.assert_allclose(reach.y, [*(2.0 - np.arange(1, 4)), *(1.0 - np.array([3, 2, 1]))])
    np.testing.assert_allclose(ranked.y, -np.arange(1, 4))
    np.testing.assert_allclose(interval.y[:3], 0.5 - np.arange(1, 4))
    assert len(figures.ablation_curve(effects(), run=RUN).data) == 4


def test_log_draws_what_is_there_and_tells_accepted_from_rolled_back() -> None:
    figure = figures.alignment_log(STEPS, run=RUN)
    assert len(figure.data) == 6
    before, accepted, rolled_back = figure.data[:3]
    np.testing.assert_array_equal(before.y, [0.5, 0.4])
    np.testing.assert_array_equal(accepted.y, [0.4, np.nan])
    np.testing.assert_array_equal(rolled_back.y, [np.nan, 0.1])
    together = STEPS.assign(head=["1.2 0.1 0.2 1.3", "0.1"])
    assert figures.alignment_log(together, run=RUN).layout.xaxis2.ticktext == ("4 heads", "0.1")
    assert figures.alignment_log(together, run=RUN).data[1].customdata[0][0] == "1.2 0.1 0.2 1.3"
    assert len(figures.alignment_log(STEPS[["imbalance_after"]], run=RUN).data) == 3
    with pytest.raises(ResultError, match="nothing to draw among the columns head"):
        figures.alignment_log(STEPS[["head"]], run=RUN)


def test_looks_follow_one_another_and_the_kept_one_is_ringed() -> None:
    figure = figures.validation_curves(CHECKPOINTS, run=RUN)
    line, rings = figure.data[:2]
    assert list(line.x) == [0, 4, 8, 8, 12]
    assert list(line.y) == [0.5, 0.3, 0.1, 0.1, 0.0]
    assert (list(rings.x), list(rings.y)) == ([8], [0.1])
    assert [shape.x0 for shape in figure.layout.shapes if shape.line.dash == "dot"] == [8] * 4
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "imbalance, order Yes, No",
        "kept",
        "imbalance, order No, Yes",
    ]
    with pytest.raises(ResultError, match="no checkpoints to draw"):
        figures.validation_curves(CHECKPOINTS.head(0), run=RUN)


def test_comparison_has_a_row_a_method_and_its_runs_apart() -> None:
    figure = figures.method_comparison(methods(), run=RUN)
    assert list(figure.layout.yaxis.ticktext) == ["base", "offset", "nasa (2)"]
    accuracy = next(trace for trace in figure.data if trace.xaxis == "x2")
    assert list(accuracy.x) == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert list(accuracy.y) == pytest.approx([0, 1, 2, 2.4])
    assert list(figure.layout.yaxis.tickvals) == pytest.approx([0, 1, 2.2])
    mixed = figures.method_comparison(methods().iloc[[2, 0, 3, 1]], run=RUN).data[-1]
    assert list(mixed.x) == pytest.approx([0.7, 0.8, 0.5, 0.6])
    assert list(accuracy.error_x.array) == pytest.approx([0.05] * 4)
    assert list(accuracy.error_x.arrayminus) == pytest.approx([0.1] * 4)
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "imbalance, order Yes, No",
        "imbalance, order No, Yes",
    ]
    lines = [shape for shape in figure.layout.shapes if shape.line.dash == "dash"]
    assert [line.x0 for line in lines] == pytest.approx([0.5, 0.5])


def test_cost_curves_draw_an_interval_where_there_is_one() -> None:
    frame = effects().rename(columns={"auc_change": "auc"}).assign(kind="nasa")
    figure = figures.cost_curves(frame, "k", ["auc", "imbalance_change"], by="kind", run=RUN)
    assert [len(trace.x) for trace in figure.data] == [6, 3, 3]
    assert [trace.name for trace in figure.data if trace.showlegend] == ["nasa"]


def test_histogram_shows_every_decision_once(questions) -> None:
    report, after = report_of(np.linspace(-1, 1, 12), questions), report_of(np.linspace(0, 3, 12), questions)
    figure = ni.figures.decision_histogram(report)
    assert len(figure.data) == 4
    assert sorted(x for trace in figure.data for x in trace.x) == sorted(report.logit_differences)
    assert {trace.name for trace in figure.data} == {"the answer is yes", "the answer is no"}
    assert [shape.x0 for shape in figure.layout.shapes] == [0, 0]
    both = ni.figures.decision_histogram(report, after, threshold=0.4)
    drawn = sorted(x for trace in both.data for x in trace.x)
    assert drawn == sorted([*report.logit_differences, *after.logit_differences])
    assert [shape.x0 for shape in both.layout.shapes] == [0.4] * 4
    for trace in both.data:
        assert trace.xbins.start <= min(trace.x)
        assert max(trace.x) <= trace.xbins.end


def test_precision_without_a_yes_is_blank(questions) -> None:
    report = report_of(np.linspace(0.5, 1, 12), questions)
    precision, recall = figures.precision_recall(report).data
    assert np.isnan(precision.x).all()
    np.testing.assert_array_equal(recall.x, [0.0] * len(report.parts))


@pytest.mark.parametrize("seed", range(3))
def test_calibration_bins_give_the_reports_error(questions, seed) -> None:
    report = report_of(np.random.default_rng(seed).normal(size=12), questions)
    bins = figures.calibration_bins(report)
    assert bins.n.sum() == 12
    error = (bins.n * (bins.probability - bins.rate).abs()).sum() / 12
    assert error == pytest.approx(report.ece, abs=1e-12)
    curve = figures.calibration_curve(report).data[1]
    np.testing.assert_array_equal(curve.y, bins.rate)


def test_text_from_data_is_never_markup(questions) -> None:
    run = dataclasses.replace(RUN, model="<a href='http://x.y'>m</a>")
    figure = figures.head_heatmap(np.ones((2, 4)), title="<b>t</b>", unit="<i>u</i>", run=run)
    text = str(figure.layout.title) + str(figure.data[0].colorbar.title)
    assert "<a" not in text
    assert "<b>" not in text
    assert "<i>" not in text
    assert safe("<i>u</i>") in text


def test_a_long_caption_is_broken_into_lines() -> None:
    run = dataclasses.replace(RUN, data="strategyqa:" + "/folder" * 40)
    figure = figures.head_heatmap(np.ones((2, 4)), title="t", unit="u", run=run)
    short = figures.head_heatmap(np.ones((2, 4)), title="t", unit="u", run=RUN)
    assert max(map(len, figure.layout.title.subtitle.text.split("<br>"))) <= 112
    assert figure.layout.margin.t > short.layout.margin.t


def test_a_saved_figure_is_one_page_without_requests(scores, tmp_path) -> None:
    page = ni.figures.save_figure(ni.head_heatmap(scores), tmp_path / "a.html").read_text()
    assert "<script src=" not in page
    assert "Plotly.newPlot" in page
    with pytest.raises(ResultError, match=r"\.html, \.png"):
        ni.figures.save_figure(ni.head_heatmap(scores), tmp_path / "a.gif")


def test_a_figure_is_saved_as_a_picture(scores, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", browser.require_chromium())
    picture = ni.figures.save_figure(ni.head_heatmap(scores), tmp_path / "a.png", scale=1.0).read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width = int.from_bytes(picture[16:20], "big")
    assert width == 640
    assert "<svg" in ni.figures.save_figure(ni.head_heatmap(scores), tmp_path / "a.svg").read_text()[:200]


def test_a_picture_without_a_browser_is_an_error_that_says_so(scores, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ResultError, match=r"Chromium; install it, or save as \.html"):
        ni.figures.save_figure(ni.head_heatmap(scores), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


# What a broken browser does, and how its error goes on. Chromium is spoken to through the files 3 and 4.
BROKEN = {
    "ends at once": ("exit 1", "failed to draw it"),
    "is no program": (None, "failed to draw it"),
    "hangs": ("exec sleep {nap}", "took more than 4 s"),
    "hangs and ignores being asked to end": ("trap '' TERM INT HUP; while :; do sleep {nap}; done", "took more than"),
    "says what can't be read": ("printf 'no\\0{json' >&4; exec sleep {nap}", "took more than"),
    "closes its pipes": ("exec 3<&- 4>&-; exec sleep {nap}", "took more than"),
    "leaves a process behind": ("sleep {nap} & exit 1", "failed to draw it"),
    "leaves a process of its own session": ("setsid sleep {nap} & exit 1", "failed to draw it"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_browser_is_one_error_in_time_and_leaves_nothing(how, scores, tmp_path, monkeypatch) -> None:
    script, says = BROKEN[how]
    program = tmp_path / "chromium"
    # A number that no other run's processes have.
    nap = f"98{os.getpid()}"
    program.write_text("no program" if script is None else f"#!/bin/sh\n{script.replace('{nap}', nap)}\n")
    program.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("BROWSER_PATH", str(program))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    if says.startswith("took"):
        monkeypatch.setattr("nasa_interp.figures.save.LIMIT", 4.0)
    start = time.monotonic()
    with pytest.raises(ResultError, match=rf"a\.png: Chromium {says}.* or save as \.html") as error:
        ni.figures.save_figure(ni.head_heatmap(scores), tmp_path / "a.png")
    assert time.monotonic() - start < 30
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["chromium", "tmp"]
    running = [each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])]
    assert not [words for words in running if nap in words or str(program) in words]


def carried() -> pd.DataFrame:
    """Two cures in two conditions; one asked nothing of a row."""
    names = ("fitted_on", "asked", "method", "runs", "imbalance_yes_no", "imbalance_no_yes", "imbalance", "accuracy")
    rows = [("", "a", "as it is", 1, 0.5, 0.5, 0.5, 0.5), ("here", "a", "nasa", 3, 0.1, -0.2, 0.15, 0.6),
            ("here", "b", "nasa", 3, 0.0, -0.4, 0.2, 0.7)]  # fmt: skip
    return pd.DataFrame(rows, columns=list(names))


def test_a_cell_tells_both_orders_and_one_that_was_not_asked_stays_blank() -> None:
    (heat,) = figures.transfer_heatmap(carried(), run=RUN).data
    assert list(heat.y) == ["as it is", "nasa (median of 3), on here"]
    assert list(heat.x) == ["a", "b"]
    assert heat.z == ((0.5, None), (0.15, 0.2)) or np.isnan(np.array(heat.z, dtype=float)[0, 1])
    assert heat.text[1][1] == "+0.00 / -0.40<br>0.70 right"
    assert heat.text[0][1] == ""
