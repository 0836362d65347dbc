"""Asks data sets in forms: `matrix`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app
from .options import JsonOpt, ModelArg, ModelOptions, SeedOpt, SkipBadOpt, check_out_folder, load_data, open_stream
from .shared import with_shared_options
from .show import deliver, print_result


@app.command()
@with_shared_options
def matrix(
    model: ModelArg,
    *,
    data: Annotated[list[str], typer.Option(help="builtin:verify#val, gsm8k:PATH, ...; may be given again")],
    form: Annotated[
        list[str] | None, typer.Option(help="yes-no, reversed, ..., or a .toml file; may be given again")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder; finished cells are kept there")] = None,
    known: Annotated[
        int | None, typer.Option(min=0, help="ask what the model knows, greedily and drawn so many times")
    ] = None,
    heads: Annotated[bool, typer.Option("--heads/--no-heads", help="score the heads of every cell, too")] = True,
    few: Annotated[
        list[str] | None, typer.Option(help="fewer questions for some data or form, such as think=24; again for more")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="ask all questions, of files of any length; parts are kept in --out")
    ] = False,
    skip_bad: SkipBadOpt = False,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    placement: ModelOptions,
    limit: Annotated[int | None, typer.Option(min=1, help="questions a cell, evenly from the groups")] = 60,
) -> None:
    """Where does the bias hold, and where does it turn? Data sets x forms x what the model knows."""
    from ..survey import form_matrix

    check_out_folder(out, {"matrix.json": "form_matrix"})
    if everything and out is None:
        raise typer.BadParameter("parts need a folder; give --out", param_hint="--all")
    if everything and (few or known is not None):
        raise typer.BadParameter("goes with neither --few nor --known; leave them out", param_hint="--all")
    questions = [
        open_stream(out, name, None, seed, skip_bad=skip_bad)
        if everything and out is not None
        else load_data(name, None, seed, skip_bad=skip_bad)
        for name in data
    ]
    found = form_matrix(
        placement.load(model, shared=everything),
        questions,
        form or ("yes-no",),
        limit=limit,
        limits=dict(_few(text) for text in few or ()),
        known=known,
        heads=heads,
        folder=out,
        seed=seed,
    )
    deliver(partial(print_result, _told(found, json_), json_))


def _told(found: Any, json_: bool) -> Any:
    if json_:
        table = found.table.astype(object).where(found.table.notna(), None)
        return {"table": table.to_dict(orient="records"), "verdict": found.verdict}
    grids = [
        f"{name}\n{found.grid(name).round(2).to_string(na_rep='-')}" for name in ("imbalance", "auc", "answer_mass")
    ]
    return "\n\n".join([*grids, "\n".join(found.verdict)])


def _few(text: str) -> tuple[str, int]:
    """A name and its number of questions."""
    name, equals, number = text.rpartition("=")
    if not equals or not number.isdecimal() or not int(number):
        raise typer.BadParameter(f"{text!r} is no NAME=NUMBER, such as think=24", param_hint="--few")
    return name, int(number)
