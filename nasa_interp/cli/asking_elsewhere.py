"""The same questions in other people's programs: `task`."""

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import JsonOpt, LimitOpt, OrderOpt, PromptOptions, SeedOpt, SkipBadOpt, check_out_folder, load_data
from .shared import with_shared_options
from .show import print_result


@app.command()
@with_shared_options
def task(
    data: Annotated[str, typer.Argument(metavar="DATA", help="questions with labels, as for --data elsewhere")],
    *,
    out: Annotated[Path, typer.Option(help="a new folder")],
    model: Annotated[str, typer.Option(help="MODEL whose tokenizer the prompts are checked with")] = "demo",
    name: Annotated[str | None, typer.Option(help="of the group of tasks; by default made of the data's name")] = None,
    order: OrderOpt = "both",
    skip_bad: SkipBadOpt = False,
    prompt: PromptOptions,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    limit: LimitOpt = None,
) -> None:
    """Write the questions as a task for lm-evaluation-harness and inspect_ai, with exactly these prompts."""
    from dataclasses import asdict

    from ..harness import write_task
    from ..models import load_tokenizer

    check_out_folder(out)
    style, questions = prompt.style(), load_data(data, limit, seed, skip_bad=skip_bad)
    written = write_task(load_tokenizer(model), questions, out, name=name, style=style, order=order)
    if json_:
        print_result(asdict(written), True)
        return
    lines = "\n".join(written.commands.values())
    print_result(f"written to {written.folder}; MODEL is a folder that `nasa-interp export` wrote:\n{lines}", False)
