"""Do these heads make the model say No: `ablate`, `patch`."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import (
    AllowSpecialOpt,
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
    intervention_of,
    load,
    load_data,
    load_heads,
    one_of,
    style_of,
)
from .show import deliver, print_result


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
    allow_special: AllowSpecialOpt = False,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    limit: LimitOpt = None,
) -> None:
    """Do these heads make the model say No? The effect of changing them, against random heads."""
    from ..interventions import Ablator, random_control
    from ..results import write_result

    check_out(out, "ablation_effect")
    chosen, what = load_heads(heads), intervention_of(by, positions)
    style, questions = style_of(instruction, candidates, kind, allow_special), load_data(data, limit, seed)
    ablator = Ablator(load(model, device, dtype), questions, order, style, seed=seed)  # type: ignore[arg-type]
    effect = ablator.effect(chosen, what)
    control = random_control(ablator, chosen, what, controls, seed=seed) if controls else None
    found = {**effect.to_dict(), "control": None if control is None else asdict(control)}
    text = effect.changes.to_string(float_format=lambda x: f"{x:+.3f}", na_rep="undefined")
    text += "" if control is None else f"\n\nmean logit difference: {control}"
    deliver(partial(print_result, found if json_ else text, json_), (out, lambda path: write_result(path, found)))


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
    allow_special: AllowSpecialOpt = False,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    limit: LimitOpt = None,
) -> None:
    """Which heads carry the truth, and which the bias? Outputs of a clean run patched into a corrupted one."""
    from ..patching import patch_data

    one_of(kind_, ("question", "neutral", "order"), "--pairs")
    one_of(by, ("head", "class", "position"), "--by")
    check_out(out, "patch_summary")
    chosen = None if heads is None else load_heads(heads)
    style, questions = style_of(instruction, candidates, kind, allow_special), load_data(data, None, seed)
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
    deliver(partial(print_result, found.to_dict() if json_ else found.text(top), json_), (out, found.save))
