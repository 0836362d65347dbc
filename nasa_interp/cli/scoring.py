"""Is there a bias, and which heads look at No: `decide`, `score`, `heads`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app
from .options import (
    AllowSpecialOpt,
    BatchOpt,
    CandidatesOpt,
    DataOpt,
    DeviceOpt,
    DtypeOpt,
    InstructionOpt,
    JsonOpt,
    KindOpt,
    LimitOpt,
    ModelArg,
    OrderOpt,
    OutOpt,
    SeedOpt,
    check_out,
    load,
    load_data,
    one_of,
    style_of,
)
from .show import deliver, print_report, print_result, print_scores, say, shortfall

# The columns of what `decide --by generation` and `heads` write as CSV.
ANSWERS = "id,group,order,label,answer,text"
RANKING = "rank,head,layer,index,score,by"


@app.command()
def decide(
    model: ModelArg,
    data: DataOpt = "builtin:verify#test",
    out: OutOpt = None,
    order: OrderOpt = "both",
    by: Annotated[str, typer.Option(help="logits, or generation (greedy, first candidate word)")] = "logits",
    instruction: InstructionOpt = None,
    candidates: CandidatesOpt = None,
    kind: KindOpt = "auto",
    allow_special: AllowSpecialOpt = False,
    batch_size: BatchOpt = None,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    limit: LimitOpt = None,
) -> None:
    """Does the model say No too often? Precision, recall, imbalance, AUC, calibration, by group and order."""
    from .. import decisions, evaluation
    from ..results import write_table

    one_of(by, ("logits", "generation"), "--by")
    check_out(out, ANSWERS if by == "generation" else "binary_report")
    style, questions = style_of(instruction, candidates, kind, allow_special), load_data(data, limit, seed)
    options: dict[str, Any] = {"style": style, "seed": seed}
    if batch_size is not None:
        options["batch_size"] = batch_size
    if by == "generation":
        found = evaluation.decide_by_generation(load(model, device, dtype), questions, order, **options)  # type: ignore[arg-type]
        counts = {**found.counts, "accuracy": found.accuracy}
        show = partial(print_result, counts if json_ else repr(found), json_)
        deliver(show, (out, lambda path: write_table(path, found.to_dataframe())))
        return
    report = decisions.decide(load(model, device, dtype), questions, order, **options)  # type: ignore[arg-type]
    measures = {"verdict": report.verdict, **{k: e.to_dict() for k, e in report.parts.items()}}
    show = partial(print_result, measures, True) if json_ else partial(print_report, report)
    deliver(show, (out, report.save))


@app.command()
def score(
    model: ModelArg,
    data: DataOpt = "builtin:verify#probe",
    out: OutOpt = None,
    order: OrderOpt = "both",
    engine: Annotated[str, typer.Option(help="auto, fused or hooked")] = "auto",
    per: Annotated[str, typer.Option(help="prompt sums over queries as the paper does, query divides")] = "prompt",
    top: Annotated[int, typer.Option(min=1, help="heads to print")] = 10,
    instruction: InstructionOpt = None,
    candidates: CandidatesOpt = None,
    kind: KindOpt = "auto",
    allow_special: AllowSpecialOpt = False,
    batch_size: BatchOpt = None,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    limit: LimitOpt = None,
) -> None:
    """Which heads look at No? The negative attention score of every head, parted into polarity and recency."""
    from ..scoring import score_heads

    check_out(out, "head_scores")
    style, questions = style_of(instruction, candidates, kind, allow_special), load_data(data, limit, seed)
    scores = score_heads(
        load(model, device, dtype),
        questions,
        order,  # type: ignore[arg-type]
        style,
        engine=engine,  # type: ignore[arg-type]
        per=per,  # type: ignore[arg-type]
        batch_size=batch_size,
        seed=seed,
    )
    rows = partial(print_result, scores.to_dataframe().to_dict(orient="records"), True)
    deliver(rows if json_ else partial(print_scores, scores, top), (out, scores.save))


@app.command()
def heads(
    scores: Annotated[Path, typer.Argument(metavar="SCORES.json", help="what `score --out` wrote")],
    top: Annotated[int, typer.Option(min=1, help="how many heads")] = 10,
    by: Annotated[str, typer.Option(help="values, polarity or recency")] = "values",
    from_layer: Annotated[int, typer.Option(min=0, help="lowest layer; tuning pays for all above the lowest head")] = 0,
    out: Annotated[Path | None, typer.Option(help="write JSON, or CSV where the name ends in .csv")] = None,
    pasta: Annotated[Path | None, typer.Option(help="write the JSON that PASTA-style steering reads")] = None,
    json_: JsonOpt = False,
) -> None:
    """The top heads of saved scores, as a list to keep."""
    from ..scoring import HeadScores

    check_out(out, "heads" if out is None or out.suffix.lower() != ".csv" else RANKING)
    check_out(pasta, "pasta")
    all_heads = HeadScores.load(scores)
    found = all_heads.top(top, by, from_layer)
    if fewer := shortfall(len(found), top, *all_heads.shape, from_layer):
        say(fewer)
    frame = found.to_dataframe()
    rows = frame.to_dict(orient="records") if json_ else frame.round(4).to_string(index=False)
    deliver(partial(print_result, rows, json_), (out, found.save), (pasta, found.save_pasta))
