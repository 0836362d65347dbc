"""Do these heads make the model say No, or Yes: `ablate`, `patch`."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import warn_user
from .app import app
from .options import (
    DataOpt,
    HeadsOpt,
    JsonOpt,
    LimitOpt,
    ModelArg,
    ModelOptions,
    OrderOpt,
    OutOpt,
    PartsOpt,
    PromptOptions,
    SeedOpt,
    SkipBadOpt,
    check_out,
    intervention_of,
    load_data,
    load_heads,
    open_stream,
)
from .shared import with_shared_options
from .show import deliver, print_result


@app.command()
@with_shared_options
def ablate(
    model: ModelArg,
    *,
    heads: HeadsOpt,
    data: DataOpt = "builtin:verify#val",
    out: OutOpt = None,
    do: Annotated[str, typer.Option(help="zero, knockout, swap, or a factor such as 0.5")] = "zero",
    positions: Annotated[
        Literal["all", "after", "last"] | None,
        typer.Option(help="all, after (the instruction), or last; by default all, for edges after"),
    ] = None,
    controls: Annotated[int, typer.Option(min=0, help="layer-matched random sets; 99 for a claim")] = 9,
    parts: PartsOpt = None,
    order: OrderOpt = "both",
    skip_bad: SkipBadOpt = False,
    prompt: PromptOptions,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    placement: ModelOptions,
    limit: LimitOpt = None,
) -> None:
    """Do these heads make the model say No, or Yes? The effect of changing them, against random heads."""
    from ..interventions import Ablator, random_controls
    from ..results import write_result
    from ..streams import stream_ablation

    check_out(out, "ablation_effect")
    chosen, intervention = load_heads(heads), intervention_of(do, positions)
    style = prompt.style()
    if parts is not None:
        stream = open_stream(parts, data, limit, seed, skip_bad=skip_bad)
        options: dict[str, Any] = {"n_random": controls, "seed": seed}
        done = stream_ablation(
            placement.load(model, shared=True), stream, chosen, parts, intervention, order, style, **options
        )
        effect, control = done.effect, done.controls.of() if done.controls else None
    else:
        questions = load_data(data, limit, seed, skip_bad=skip_bad)
        ablator = Ablator(placement.load(model), questions, order, style, seed=seed)
        effect = ablator.effect(chosen, intervention)
        for message in effect.warnings:
            warn_user(message)
        control = random_controls(ablator, chosen, intervention, controls, seed=seed).of() if controls else None
    result = {**effect.to_dict(), "control": None if control is None else asdict(control)}
    text = effect.changes.to_string(float_format=lambda x: f"{x:+.3f}", na_rep="undefined")
    text += "" if control is None else f"\n\nmean logit difference: {control}"
    deliver(partial(print_result, result if json_ else text, json_), (out, lambda path: write_result(path, result)))


@app.command()
@with_shared_options
def patch(
    model: ModelArg,
    *,
    heads: Annotated[
        Path | None, typer.Option("--heads", help="a head list to patch together too; without it every head alone")
    ] = None,
    data: DataOpt = "builtin:verify#val",
    out: OutOpt = None,
    pairs: Annotated[
        Literal["question", "neutral", "order"],
        typer.Option(help="question (twins: who carries the truth), neutral or order (the bias)"),
    ] = "question",
    by: Annotated[
        Literal["head", "class", "position"],
        typer.Option(help="head, class (of positions), or position (pairs of one length)"),
    ] = "head",
    neutral: Annotated[str | None, typer.Option(help="the word that stands for a candidate in neutral pairs")] = None,
    toward: Annotated[
        Literal["no", "yes"] | None,
        typer.Option(help="which candidate it stands for; by default what the model says too often"),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="heads to print")] = 10,
    order: OrderOpt = "both",
    skip_bad: SkipBadOpt = False,
    prompt: PromptOptions,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    placement: ModelOptions,
    limit: LimitOpt = None,
) -> None:
    """Which heads carry the truth, and which the bias? Outputs of a clean run patched into a corrupted one."""
    from ..patching import patch_data

    check_out(out, "patch_summary")
    chosen = None if heads is None else load_heads(heads)
    style, questions = prompt.style(), load_data(data, None, seed, skip_bad=skip_bad)
    effects = patch_data(
        placement.load(model),
        questions,
        chosen,
        pairs,
        order,
        style,
        by=by,
        neutral=neutral,
        toward=toward,
        limit=limit,
        seed=seed,
    )
    deliver(partial(print_result, effects.to_dict() if json_ else effects.text(top), json_), (out, effects.save))
