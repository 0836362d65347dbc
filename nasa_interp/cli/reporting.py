"""What a model can be asked, and the whole story: `doctor`, `demo`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import NasaInterpError
from .app import app
from .options import (
    DeviceOptions,
    JsonOpt,
    LimitOpt,
    ModelArg,
    ModelOptions,
    SeedOpt,
    check_alone,
    check_out,
    check_out_folder,
)
from .running import say_stage
from .shared import with_shared_options
from .show import print_report, print_result, print_scores


@app.command()
@with_shared_options
def doctor(
    model: ModelArg,
    *,
    length: Annotated[int, typer.Option(min=8, help="prompt length in tokens for the memory estimate")] = 1024,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    placement: ModelOptions,
    limit: LimitOpt = None,
) -> None:
    """Can this model be scored, by which engine, how much memory? Checks the hooks against eager attention."""
    from ..doctor import SAMPLE, diagnose

    diagnosis = diagnose(placement.load(model), length, limit=limit or SAMPLE, seed=seed)
    print_result(diagnosis.to_dict() if json_ else diagnosis.text(), json_)
    if not diagnosis.ok:
        raise NasaInterpError(f"{model} can't be scored: {'; '.join(filter(None, diagnosis.engines.values()))}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a folder with results")],
    out: Annotated[Path | None, typer.Option(help="the page; by default report.html in the folder")] = None,
    json_: JsonOpt = False,
) -> None:
    """One HTML page of everything that a run folder holds; it opens offline."""
    from ..report import write_report

    check_out(out, "page")
    page = write_report(run, out)
    print_result({"page": page} if json_ else f"written to {page}", json_)


@app.command()
@with_shared_options
def demo(
    *,
    out: Annotated[Path, typer.Option(help="run folder")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="fewer questions: a look, not a claim")] = False,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    placement: DeviceOptions,
    limit: LimitOpt = None,
) -> None:
    """The whole story on the embedded model, into a run folder."""
    from ..demo import run_demo

    check_alone()
    check_out_folder(out)
    story = run_demo(
        out, quick=quick, seed=seed, device=placement.device, dtype=placement.dtype, limit=limit, say=say_stage
    )
    if json_:
        print_result(story.to_dict(), True)
    else:
        print_report(story.report)
        print_scores(story.scores, 10, story.toward)
        typer.echo(f"\n{story.effect!r}\n{story.alignment!r}")
        if story.change is not None:
            verdict = story.change.after.verdict
            typer.echo(f"\nafter tuning, on the same questions of the test split:\n{verdict}\n{story.change!r}")
        typer.echo("\n" + story.text())
