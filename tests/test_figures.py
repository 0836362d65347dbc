"""Figures: what is drawn, where, and that what was not measured stays blank."""

import numpy as np

import nasa_interp as ni


def test_heatmap_has_layers_down_heads_across_and_zero_in_the_middle(tiny, questions):
    scores = ni.score_heads(tiny, questions, progress=False)
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
    assert len(figure.layout.shapes) == 2
    best = scores.top(1)[0]
    assert (figure.layout.shapes[0].x0, figure.layout.shapes[0].y0) == (best.index - 0.5, best.layer - 0.5)
    assert scores.run.summary() in figure.layout.title.subtitle.text


def test_heatmap_of_one_order_is_blank_not_zero(tiny, questions):
    scores = ni.score_heads(tiny, questions, "yes_no", progress=False)
    assert np.isnan(ni.head_heatmap(scores, "polarity").data[0].z).all()


def test_histogram_shows_every_decision_once(tiny, questions):
    report = ni.BinaryReport(
        np.linspace(-1, 1, 12),
        np.full(12, 0.9),
        ("yes_no",) * 6 + ("no_yes",) * 6,
        tuple(questions) * 2,
        ni.RunInfo("tiny", "six", 6, ("yes_no", "no_yes"), draws=20),
    )
    figure = ni.decision_histogram(report)
    assert len(figure.data) == 4
    assert sorted(x for trace in figure.data for x in trace.x) == sorted(report.logit_differences)
    assert {trace.name for trace in figure.data} == {"the answer is yes", "the answer is no"}
    assert len(figure.layout.shapes) == 2
    assert all(shape.x0 == 0 for shape in figure.layout.shapes)


def test_a_saved_figure_is_one_page_without_requests(tiny, questions, tmp_path):
    scores = ni.score_heads(tiny, questions, progress=False)
    page = ni.save_figure(ni.head_heatmap(scores), tmp_path / "a.html").read_text()
    assert "<script src=" not in page
    assert "Plotly.newPlot" in page
