"""Do these heads make the model say No: `ablate`, `patch`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..run import write_json
from .app import app
from .options import (
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
    intervention_of,
    load,
    load_data,
    load_heads,
    one_of,
    style_of,
)
from .show import print_result


@app.command()
def ablate(
    model: ModelArg,
    heads: Annotated[Path, typer.Option("--heads", help="a head list: what `heads --out` wrote, CSV, or PASTA JSON")],
    data: DataOpt = "builtin:verify#val",
    out: OutOpt = None,
    by: Annotated[str, typer.Option("--do", help="zero, knockout, swap, or a factor such as 0.5")] = "zero",
    positions: Annotated[
        str | None, typer.Option(help="all, after (the instruction), or last; by default all, for edges after")
    ] = None,
    controls: Annotated[int, typer.Option(min=0, help="layer-matched random sets; 99 for a claim")] = 9,
    order: OrderOpt = "both",
    instruction: InstructionOpt = None,
    candidates: CandidatesOpt = None,
    kind: KindOpt = "auto",
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    limit: LimitOpt = None,
) -> None:
    """Do these heads make the model say No? The effect of changing them, against random heads."""
    from ..interventions import Ablator, random_control

    chosen, what = load_heads(heads), intervention_of(by, positions)
    style, questions = style_of(instruction, candidates, kind), load_data(data, limit, seed)
    ablator = Ablator(load(model, device, dtype), questions, order, style, seed=seed)  # type: ignore[arg-type]
    effect = ablator.effect(chosen, what)
    control = random_control(ablator, chosen, what, controls, seed=seed) if controls else None
    found = {**effect.to_dict(), "control": None if control is None else asdict(control)}
    if out:
        write_json(out, found)
    if json_:
        print_result(found, True)
        return
    typer.echo(effect.changes.to_string(float_format=lambda x: f"{x:+.3f}", na_rep="undefined"))
    if control is not None:
        typer.echo(f"\nmean logit difference: {control}")


@app.command()
def patch(
    model: ModelArg,
    heads: Annotated[
        Path | None, typer.Option("--heads", help="a head list to patch together too; without it every head alone")
    ] = None,
    data: DataOpt = "builtin:verify#val",
    out: OutOpt = None,
    kind_: Annotated[
        str, typer.Option("--pairs", help="question (twins: who carries the truth), neutral or order (the bias)")
    ] = "question",
    by: Annotated[str, typer.Option(help="head, class (of positions), or position (pairs of one length)")] = "head",
    neutral: Annotated[str | None, typer.Option(help="the word that stands for No in neutral pairs")] = None,
    top: Annotated[int, typer.Option(min=1, help="heads to print")] = 10,
    order: OrderOpt = "both",
    instruction: InstructionOpt = None,
    candidates: CandidatesOpt = None,
    kind: KindOpt = "auto",
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    limit: LimitOpt = None,
) -> None:
    """Which heads carry the truth, and which the bias? Outputs of a clean run patched into a corrupted one."""
    from ..interventions import patch_data

    one_of(kind_, ("question", "neutral", "order"), "--pairs")
    one_of(by, ("head", "class", "position"), "--by")
    chosen = None if heads is None else load_heads(heads)
    style, questions = style_of(instruction, candidates, kind), load_data(data, None, seed)
    found = patch_data(
        load(model, device, dtype),
        questions,
        chosen,
        kind_,  # type: ignore[arg-type]
        order,  # type: ignore[arg-type]
        style,
        by=by,  # type: ignore[arg-type]
        neutral=neutral,
        limit=limit,
        seed=seed,
    )
    if out:
        found.save(out)
    print_result(found.to_dict() if json_ else found.text(top), json_)
