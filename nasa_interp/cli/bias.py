"""Is there a bias, and which heads look at No: `decide`, `score`, `heads`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app
from .options import (
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
    load,
    load_data,
    style_of,
)
from .show import print_report, print_result, print_scores


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
    batch_size: BatchOpt = None,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    limit: LimitOpt = None,
) -> None:
    """Does the model say No too often? Precision, recall, imbalance, AUC, calibration, by group and order."""
    from .. import decisions, generation

    style, questions = style_of(instruction, candidates, kind), load_data(data, limit, seed)
    options: dict[str, Any] = {"style": style, "seed": seed}
    if batch_size is not None:
        options["batch_size"] = batch_size
    if by == "generation":
        found = generation.decide_by_generation(load(model, device, dtype), questions, order, **options)  # type: ignore[arg-type]
        if out:
            from ..run import write_text

            write_text(out, found.to_dataframe().to_csv(index=False))
        counts = {**found.counts, "accuracy": found.accuracy}
        print_result(counts if json_ else repr(found), json_)
        return
    if by != "logits":
        raise typer.BadParameter(f"{by!r} is neither logits nor generation", param_hint="--by")
    report = decisions.decide(load(model, device, dtype), questions, order, **options)  # type: ignore[arg-type]
    if out:
        report.save(out)
    if json_:
        print_result({"verdict": report.verdict, **{k: e.to_dict() for k, e in report.parts.items()}}, True)
    else:
        print_report(report)


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
    batch_size: BatchOpt = None,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    limit: LimitOpt = None,
) -> None:
    """Which heads look at No? The negative attention score of every head, parted into polarity and order."""
    from ..scoring import score_heads

    style, questions = style_of(instruction, candidates, kind), load_data(data, limit, seed)
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
    if out:
        scores.save(out)
    if json_:
        print_result(scores.to_dataframe().to_dict(orient="records"), True)
    else:
        print_scores(scores, top)


@app.command()
def heads(
    scores: Annotated[Path, typer.Argument(metavar="SCORES.json", help="what `score --out` wrote")],
    top: Annotated[int, typer.Option(min=1, help="how many heads")] = 10,
    by: Annotated[str, typer.Option(help="values, polarity or order")] = "values",
    from_layer: Annotated[int, typer.Option(min=0, help="lowest layer; tuning pays for all above the lowest head")] = 0,
    out: Annotated[Path | None, typer.Option(help="write JSON, or CSV where the name ends in .csv")] = None,
    pasta: Annotated[Path | None, typer.Option(help="write the JSON that PASTA-style steering reads")] = None,
    json_: JsonOpt = False,
) -> None:
    """The top heads of saved scores, as a list to keep."""
    from ..scoring import HeadScores

    found = HeadScores.load(scores).top(top, by, from_layer)
    if out:
        found.save(out)
    if pasta:
        found.save_pasta(pasta)
    frame = found.to_dataframe()
    print_result(frame.to_dict(orient="records") if json_ else frame.round(4).to_string(index=False), json_)
