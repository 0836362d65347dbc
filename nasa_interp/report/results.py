"""Sections for results with their own type: decisions, scores, an ablation, a prompt under the lens."""

import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from ..decisions import BinaryReport
from ..figures import calibration_curve, decision_histogram, head_heatmap, polarity_against_recency, precision_recall
from ..heads import SIDES, HeadList, Toward
from ..prompts import PromptStyle
from ..results import parsing_result
from ..run import RunInfo, read_json
from ..scoring import HeadScores
from ..view import HeadView
from ..view.markup import strips, visible
from .section import Section, Table, readable

# Data that the command line can load by name; questions given in Python have other names.
LOADABLE = re.compile(r"[a-z0-9_]+:\S.*|.+\.(?i:jsonl|csv)(#.+)?")
SHOWN = ("n", "accuracy", "precision", "recall", "gap", "imbalance", "f1", "auc", "oracle_accuracy", "ece")
MORE = ("yes_rate", "base_rate", "mean_logit_difference", "answer_mass", "auc_yes_no", "auc_no_yes")


def decisions_section(folder: Path) -> Section | None:
    """The decisions of the model, beside those of the changed model where they were saved."""
    if not (folder / "decisions.json").exists():
        return None
    report, later = BinaryReport.load(folder / "decisions.json"), folder / "decisions_after.json"
    after = BinaryReport.load(later) if later.exists() else None
    sides = {"decisions.json": report} | ({"decisions_after.json": after} if after else {})
    sentences = [report.verdict]
    tables = [_measures(report, "Measures by order and group")]
    if after:
        sentences.append(f"After the change: {after.verdict}")
        tables = [_measures(report, "Measures before the change"), _measures(after, "Measures after the change")]
    return Section(
        title="What the model decides",
        key="decisions",
        sentences=tuple(sentences),
        warnings=tuple(report.warnings),
        figures=(decision_histogram(report, after), precision_recall(report, after), calibration_curve(report, after)),
        tables=(*tables, _questions(after or report, "after the change" if after else "")),
        runs={name: side.run.to_dict() for name, side in sides.items()},
        commands=commands("decide", report.run, "decisions.json"),
        leads=2 if after else 1,
        bias=report.bias,
    )


def _measures(report: BinaryReport, caption: str) -> Table:
    frame = report.summary_dataframe()
    columns = [name for name in ("part", *SHOWN, *MORE) if name in frame]
    return Table.of(
        frame.filter(columns), caption, "An empty cell: undefined. The AUC over both orders asks for one threshold."
    )


def _questions(report: BinaryReport, when: str) -> Table:
    """Each decision with its question's text, the worst first."""
    frame = report.to_dataframe()
    frame["question"] = [q.question for q in report.questions]
    told = "Those most sure come first, as there are no labels."
    worst = frame.logit_difference.abs()
    if report.label is not None:
        worst, told = frame.logit_difference.where(frame.label, -frame.logit_difference), "Those most wrong come first."
    frame = frame.assign(worst=worst).sort_values("worst", ascending=False, kind="stable")
    columns = ["question", "group", "order", "label", "answer", "right", "logit_difference", "answer_mass"]
    return Table.of(frame.filter(columns), f"Decisions {when}".strip(), told)


def scores_section(folder: Path) -> Section | None:
    """Scores of all heads, and the head lists that were saved."""
    if not (folder / "scores.json").exists():
        return _lists_alone(folder)
    scores = HeadScores.load(folder / "scores.json")
    measured = [by for by in ("polarity", "values", "recency") if not pd.isna(scores.get(by)).all()]
    lists = head_lists(folder)
    figures = [head_heatmap(scores, by, _chosen(lists, by)) for by in measured]
    if "polarity" in measured:
        figures.insert(0, polarity_against_recency(scores, _chosen(lists, "polarity")))
    frame = scores.to_dataframe().drop(columns=["layer", "index"])
    lead = measured[0] if measured else "values"
    note = (
        f"In {scores.unit}. Polarity above 0: attends to No wherever it stands, below 0: to Yes; "
        f"recency above 0: to the later candidate."
    )
    toward = _toward(folder, lists)
    return Section(
        title=f"Which heads attend to {'No or Yes' if toward == 'bias' else SIDES[toward]}",
        key="heads",
        sentences=(
            *(_leaders(scores, by, toward) for by in measured[:2]),
            *(f"The run notes: {n}." for n in scores.run.notes),
        ),
        figures=tuple(figures),
        tables=(
            Table.of(_first(frame, lead, toward), f"{scores.quantity} of every head", note),
            *_tables(lists),
        ),
        runs={"scores.json": scores.run.to_dict()},
        commands=commands("score", scores.run, "scores.json", scores.unit),
    )


def _toward(folder: Path, lists: dict[str, HeadList]) -> Toward:
    """To which side the heads that matter look: what the saved lists say, else what the model says too often."""
    saved = {heads.toward for heads in lists.values()} & {"no", "yes", "bias"}
    if len(saved) == 1:
        return saved.pop()  # type: ignore[return-value]
    known = folder / "decisions.json"
    return BinaryReport.load(known).toward if not saved and known.exists() else "bias"


def _first(frame: pd.DataFrame, by: str, toward: Toward) -> pd.DataFrame:
    """The rows, those of heads that look most to this side first."""
    if toward == "bias":
        return frame.sort_values(by, key=abs, ascending=False)
    return frame.sort_values(by, ascending=toward == "yes")


def _leaders(scores: HeadScores, by: str, toward: Toward) -> str:
    top = scores.looking(by, toward=toward)[:5]
    side = "to either side" if toward == "bias" else f"toward {SIDES[toward]}"
    if not top:
        return f"By {by} no head on {scores.run.data} looks {side}."
    named = ", ".join(f"{head} ({score:+.2f})" for head, score in zip(top.heads, top.scores, strict=True))
    quantity = f"raw {scores.quantity}" if by == "values" else by
    return f"By {quantity} the leading heads {side} on {scores.run.data} are {named}, in {scores.unit}."


def head_lists(folder: Path) -> dict[str, HeadList]:
    """The head lists of a run folder by file name."""
    return {path.name: HeadList.load(path) for path in sorted(folder.glob("heads*.json"))}


def _chosen(lists: dict[str, HeadList], by: str) -> HeadList | None:
    return next((heads for heads in lists.values() if heads.by == by), None)


def _tables(lists: dict[str, HeadList]) -> tuple[Table, ...]:
    return tuple(
        Table.of(
            heads.to_dataframe().drop(columns=["layer", "index"]), f"{name}: {len(heads)} heads by {heads.ranked_by}"
        )
        for name, heads in lists.items()
    )


def _lists_alone(folder: Path) -> Section | None:
    lists = head_lists(folder)
    if not lists:
        return None
    sentences = tuple(
        f"{name} holds {', '.join(map(str, heads.heads))}, ranked by {heads.ranked_by}."
        for name, heads in lists.items()
    )
    return Section("Heads", "heads", sentences, tables=_tables(lists))


def effect_section(folder: Path) -> Section | None:
    """What an intervention on chosen heads does, against random heads."""
    if not (folder / "effect.json").exists():
        return None
    content = read_json(folder / "effect.json")
    with parsing_result(folder / "effect.json", "run the ablation again"):
        changes = pd.DataFrame.from_dict(content["changes"], orient="index")
        row, auc = changes.loc["mean_logit_difference"], changes.loc["auc"]
        heads = ", ".join(content["heads"])
        action = f"{content['intervention']} on"
        action = "Zeroing" if action in ("Zero() on", "Zero(positions='all') on") else action
        sentences = [
            f"{action} {heads} moves the mean of logit(No) - logit(Yes) from {row.before:+.2f} to {row.after:+.2f} "
            f"(change {row.change:+.2f} [{row.low:+.2f}, {row.high:+.2f}]; below 0 is toward Yes), "
            f"and AUC from {auc.before:.2f} to {auc.after:.2f}."
        ]
        orders = content.get("orders") or {}
        parts = {
            "both orders": content["changes"],
            **{f"order {readable(name)}": part for name, part in orders.items()},
        }
        if control := content.get("control"):
            sentences.append(_control(control))
        tables = tuple(Table.of(_named(part), f"Change of each measure, {name}") for name, part in parts.items())
        runs = {"effect.json": content.get("run") or {}}
    return Section("What these heads do", "effect", tuple(sentences), tables=tables, runs=runs)


def _named(part: dict[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame.from_dict(part, orient="index").rename_axis("measure").reset_index()
    return frame.assign(measure=[readable(name) for name in frame["measure"]])


def _control(control: dict[str, Any]) -> str:
    random = control["random"]
    kind = "layer-matched" if control.get("matched") else "unmatched"
    return (
        f"{len(random)} {kind} random sets of as many heads move it by {sum(random) / len(random):+.2f} on average, "
        f"between {min(random):+.2f} and {max(random):+.2f}: p = {control['p']:.2f}."
    )


def tokens_section(folder: Path) -> Section | None:
    """Prompts under the lens."""
    views = [(path.name, HeadView.load(path)) for path in sorted(folder.glob("tokens*.json"))]
    if not views:
        return None
    sentences, figures, tables, markup = [], [], [], Markup("")
    for _, view in views:
        sentences.append(_sentence(view))
        figures.append(view.to_figure())
        frame = view.to_dataframe()
        frame["token"] = frame["token"].map(visible)
        tables.append(Table.of(frame, f"What each query adds, {view.question}"))
        markup += Markup("<h3>{}</h3>").format(f"The prompt, shaded by attention: {view.question}") + Markup(
            strips(view)
        )
    runs = {name: view.run.to_dict() for name, view in views}
    return Section("A prompt under the lens", "lens", tuple(sentences), (), tuple(figures), tuple(tables), markup, runs)


def _sentence(view: HeadView) -> str:
    answer = "No" if view.logit_difference >= 0 else "Yes"
    scores = ", ".join(f"{head} {nas:+.2f}" for head, nas in zip(view.heads, view.nas, strict=True))
    return (
        f"Asked {view.question!r} (order {view.order}), {view.run.model} says {answer}, by a logit difference of "
        f"{abs(view.logit_difference):.2f}; the heads' scores on this prompt are {scores}."
    )


def commands(verb: str, run: RunInfo, out: str, unit: str = "") -> tuple[str, ...]:
    """The command that recomputes a file, from the details of its run; none where no command can express them.

    Args:
        verb: the command.
        run: the details.
        out: the file.
        unit: of scores; it says whether they were divided by the number of queries.
    """
    style, default = {**PromptStyle().to_dict(), **run.template}, PromptStyle().to_dict()
    if not LOADABLE.fullmatch(run.data) or style["question"] != default["question"]:
        return ()
    options = {"--data": run.data, "--seed": run.seed, "--limit": run.n_questions, "--out": out}
    if len(run.orders) == 1:
        options["--order"] = run.orders[0]
    if (style["yes"], style["no"]) != (default["yes"], default["no"]):
        options["--candidates"] = f"{style['yes']},{style['no']}"
    if style["kind"] in ("chat", "plain"):
        options["--prompt"] = style["kind"]
    if run.dtype and run.dtype != "float32":
        options["--dtype"] = run.dtype
    if verb == "score":
        options |= {"--engine": run.engine} if run.engine in ("fused", "hooked") else {}
        options |= {"--per": "query"} if "a query" in unit else {}
    words = [str(word) for option in options.items() for word in option]
    if (texts := style["instruction"]) != default["instruction"]:
        words += [word for text in ([texts] if isinstance(texts, str) else texts) for word in ("--instruction", text)]
    if style.get("allow_special"):
        words.append("--allow-special")
    return (shlex.join(["nasa-interp", verb, run.model, *words]),)
