"""Is there a bias, how to take it off, which heads look at No or Yes: `decide`, `calibrate`, `score`, `heads`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .app import app
from .options import (
    AskedArg,
    BatchOpt,
    DataOpt,
    JsonOpt,
    LimitOpt,
    ModelArg,
    ModelOptions,
    OrderOpt,
    OutOpt,
    PartsOpt,
    PromptOptions,
    SeedOpt,
    ServerOptions,
    SkipBadOpt,
    UnlabeledOpt,
    check_out,
    load_data,
    open_stream,
)
from .shared import with_shared_options
from .show import deliver, print_report, print_result, print_scores

# The columns of what `decide --by generation` and `heads` write as CSV.
ANSWERS = "id,group,order,label,answer,text"
RANKING = "rank,head,layer,index,score,by,toward"
TowardOpt = Annotated[
    Literal["no", "yes", "bias"], typer.Option(help="heads that look to no, to yes, or bias: to either, by size")
]


@app.command()
@with_shared_options
def decide(
    model: AskedArg,
    *,
    data: DataOpt = "builtin:verify#test",
    out: OutOpt = None,
    order: OrderOpt = "both",
    by: Annotated[
        Literal["logits", "generation"], typer.Option(help="logits, or generation (greedy, first candidate word)")
    ] = "logits",
    calibration: Annotated[Path | None, typer.Option(help="take off what `calibrate --out` wrote")] = None,
    average_orders: Annotated[
        bool, typer.Option("--average-orders", help="decide each question by the mean d over both orders")
    ] = False,
    parts: PartsOpt = None,
    unlabeled: UnlabeledOpt = False,
    skip_bad: SkipBadOpt = False,
    prompt: PromptOptions,
    batch_size: BatchOpt = None,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    placement: ModelOptions,
    served: ServerOptions,
    limit: LimitOpt = None,
) -> None:
    """Does the model say No, or Yes, too often? Precision, recall, imbalance, AUC, calibration, by group and order."""
    from .. import decisions, streams
    from ..calibration import Calibration
    from ..served import is_address

    words = by == "generation"
    check_out(out, "streamed_report" if parts is not None else ANSWERS if words else "binary_report")
    if parts is not None and (words or average_orders or calibration is not None):
        message = "goes with plain decisions; leave --by, --average-orders and --calibration out"
        raise typer.BadParameter(message, param_hint="--parts")
    if parts is not None and is_address(model):
        raise typer.BadParameter("a server's answers are kept with --answers", param_hint="--parts")
    if average_orders and words:
        raise typer.BadParameter("answers in words have no d to average", param_hint="--average-orders")
    offsets = None if calibration is None else Calibration.load(calibration)
    options: dict[str, Any] = {"style": prompt.style(), "seed": seed}
    if batch_size is not None:
        options["batch_size"] = batch_size
    if parts is not None:
        stream = open_stream(parts, data, limit, seed, unlabeled, skip_bad)
        report = streams.stream_decisions(placement.load(model, shared=True), stream, parts, order, **options)
        _show_report(report, json_, out)
        return
    questions = load_data(data, limit, seed, unlabeled, skip_bad)
    if words:
        _decide_in_words(served.load(model, placement), questions, order, offsets, out, json_, **options)
        return
    report = decisions.decide(served.load(model, placement), questions, order, **options)
    report = report if offsets is None else report.calibrated(offsets)
    report = decisions.average_orders(report) if average_orders else report
    _show_report(report, json_, out)


def _decide_in_words(
    model: Any, questions: Any, order: Any, offsets: Any, out: Path | None, json_: bool, **options: Any
) -> None:
    """Decisions by what the model writes: counts, and one row an answer where they are wanted."""
    from .. import evaluation
    from ..results import write_table

    answers = evaluation.decide_by_generation(model, questions, order, calibration=offsets, **options)
    counts = {**answers.counts, "accuracy": answers.accuracy}
    show = partial(print_result, counts if json_ else repr(answers), json_)
    deliver(show, (out, lambda path: write_table(path, answers.to_dataframe())))


def _show_report(report: Any, json_: bool, out: Path | None) -> None:
    measures = {"verdict": report.verdict, **{k: e.to_dict() for k, e in report.parts.items()}}
    show = partial(print_result, measures, True) if json_ else partial(print_report, report)
    deliver(show, (out, report.save))


@app.command()
@with_shared_options
def calibrate(
    model: AskedArg,
    *,
    data: DataOpt,
    out: OutOpt = None,
    prior: Annotated[float, typer.Option(help="how often yes is expected to be right, between 0 and 1")] = 0.5,
    by: Annotated[Literal["mean", "quantile"], typer.Option(help="mean or quantile of the logit differences")] = "mean",
    order: OrderOpt = "both",
    unlabeled: UnlabeledOpt = False,
    skip_bad: SkipBadOpt = False,
    prompt: PromptOptions,
    batch_size: BatchOpt = None,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    placement: ModelOptions,
    served: ServerOptions,
    limit: LimitOpt = None,
) -> None:
    """How far does the model lean, in your wording? From unlabeled questions; `decide --calibration` takes it off."""
    from .. import calibration

    check_out(out, "calibration")
    style, questions = prompt.style(), load_data(data, limit, seed, unlabeled, skip_bad)
    options: dict[str, Any] = {"prior": prior, "by": by, "batch_size": batch_size, "seed": seed}
    found = calibration.calibrate(served.load(model, placement), questions, order, style, **options)
    rows = found.to_dataframe()
    shown = rows.to_dict(orient="records") if json_ else f"{rows.round(3).to_string(index=False)}\n\n{found!r}"
    deliver(partial(print_result, shown, json_), (out, found.save))


@app.command()
@with_shared_options
def score(
    model: ModelArg,
    *,
    data: DataOpt = "builtin:verify#probe",
    out: OutOpt = None,
    order: OrderOpt = "both",
    engine: Annotated[Literal["auto", "fused", "hooked"], typer.Option(help="auto, fused or hooked")] = "auto",
    per: Annotated[
        Literal["prompt", "query"], typer.Option(help="prompt sums over queries as the paper does, query divides")
    ] = "prompt",
    top: Annotated[int, typer.Option(min=1, help="heads to print")] = 10,
    toward: TowardOpt = "no",
    parts: PartsOpt = None,
    skip_bad: SkipBadOpt = False,
    prompt: PromptOptions,
    batch_size: BatchOpt = None,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    placement: ModelOptions,
    limit: LimitOpt = None,
) -> None:
    """Which heads look at No, which at Yes? The negative attention score of every head, parted into polarity and
    recency."""
    from ..scoring import score_heads
    from ..streams import stream_scores

    check_out(out, "head_scores")
    options: dict[str, Any] = {"style": prompt.style(), "engine": engine, "per": per}
    options |= {"batch_size": batch_size, "seed": seed}
    if parts is not None:
        stream = open_stream(parts, data, limit, seed, skip_bad=skip_bad)
        scores = stream_scores(placement.load(model, shared=True), stream, parts, order, **options)
    else:
        scores = score_heads(placement.load(model), load_data(data, limit, seed, skip_bad=skip_bad), order, **options)
    rows = partial(print_result, scores.to_dataframe().to_dict(orient="records"), True)
    deliver(rows if json_ else partial(print_scores, scores, top, toward), (out, scores.save))


@app.command()
def heads(
    scores: Annotated[Path, typer.Argument(metavar="SCORES.json", help="what `score --out` wrote")],
    top: Annotated[int, typer.Option(min=1, help="how many heads")] = 10,
    by: Annotated[
        Literal["values", "polarity", "recency"], typer.Option(help="values, polarity or recency")
    ] = "values",
    toward: TowardOpt = "no",
    from_layer: Annotated[int, typer.Option(min=0, help="lowest layer; tuning pays for all above the lowest head")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="write JSON, or CSV or NumPy where the name ends in .csv, .npy")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="write the JSON [[layer, head], ...]")] = None,
    pasta: Annotated[Path | None, typer.Option(help="write the JSON that PASTA-style steering reads")] = None,
    json_: JsonOpt = False,
) -> None:
    """The top heads of saved scores, as a list to keep; `decide` says to which side the model leans."""
    from ..scoring import HeadScores

    check_out(out, {".csv": RANKING, ".npy": "npy"}.get(out.suffix.lower(), "heads") if out is not None else "heads")
    check_out(pasta, "pasta")
    check_out(pairs, "pairs")
    all_heads = HeadScores.load(scores)
    chosen = all_heads.top(top, by, from_layer, toward)
    frame = chosen.to_dataframe()
    rows = frame.to_dict(orient="records") if json_ else frame.round(4).to_string(index=False)
    deliver(
        partial(print_result, rows, json_), (out, chosen.save), (pasta, chosen.save_pasta), (pairs, chosen.save_pairs)
    )
