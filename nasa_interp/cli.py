"""The command line: arguments in, calls, printing out."""

import json
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import NasaInterpError
from .run import jsonable, write_json

# An interrupt came and may have been dropped.
_INTERRUPTED = threading.Event()

app = typer.Typer(
    name="nasa-interp",
    help="Find negative bias in language models, head by head.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelArg = Annotated[str, typer.Argument(metavar="MODEL", help="demo, a hub id, a folder, or a .gguf file")]
DataOpt = Annotated[str, typer.Option("--data", help="builtin:verify#test, strategyqa:PATH, or a .jsonl/.csv file")]
OrderOpt = Annotated[str, typer.Option(help="candidate order in the instruction: both, yes_no or no_yes")]
JsonOpt = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
SeedOpt = Annotated[int, typer.Option(help="seed of sampling and of the bootstrap")]
DeviceOpt = Annotated[str | None, typer.Option(help="such as cpu or cuda:0; auto spreads over all devices")]
DtypeOpt = Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto")]
LimitOpt = Annotated[int | None, typer.Option(min=1, help="use so many questions only, evenly from the groups")]
BatchOpt = Annotated[int | None, typer.Option(min=1, help="prompts in a forward pass; changes time and memory alone")]
OutOpt = Annotated[Path | None, typer.Option(help="write the result here, whole or not at all")]
InstructionOpt = Annotated[str | None, typer.Option(help="your instruction; {first} and {second} are the candidates")]
CandidatesOpt = Annotated[str | None, typer.Option(help="the answer candidates, the yes one first: True,False")]
KindOpt = Annotated[str, typer.Option("--prompt", help="auto, chat or plain")]


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
    from . import decisions, generation

    style, questions = _style(instruction, candidates, kind), _load_data(data, limit, seed)
    options: dict[str, Any] = {"style": style, "seed": seed}
    if batch_size is not None:
        options["batch_size"] = batch_size
    if by == "generation":
        found = generation.decide_by_generation(_load(model, device, dtype), questions, order, **options)  # type: ignore[arg-type]
        if out:
            from .run import write_text

            write_text(out, found.to_dataframe().to_csv(index=False))
        counts = {**found.counts, "accuracy": found.accuracy}
        _print(counts if json_ else repr(found), json_)
        return
    if by != "logits":
        raise typer.BadParameter(f"{by!r} is neither logits nor generation", param_hint="--by")
    report = decisions.decide(_load(model, device, dtype), questions, order, **options)  # type: ignore[arg-type]
    if out:
        report.save(out)
    if json_:
        _print({"verdict": report.verdict, **{k: e.to_dict() for k, e in report.parts.items()}}, True)
    else:
        _print_report(report)


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
    from .scoring import score_heads

    style, questions = _style(instruction, candidates, kind), _load_data(data, limit, seed)
    scores = score_heads(
        _load(model, device, dtype),
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
        _print(scores.to_dataframe().to_dict(orient="records"), True)
    else:
        _print_scores(scores, top)


@app.command()
def heads(
    scores: Annotated[Path, typer.Argument(metavar="SCORES.json", help="what `score --out` wrote")],
    top: Annotated[int, typer.Option(min=1, help="how many heads")] = 10,
    by: Annotated[str, typer.Option(help="values, polarity or order")] = "values",
    out: Annotated[Path | None, typer.Option(help="write JSON, or CSV where the name ends in .csv")] = None,
    pasta: Annotated[Path | None, typer.Option(help="write the JSON that PASTA-style steering reads")] = None,
    json_: JsonOpt = False,
) -> None:
    """The top heads of saved scores, as a list to keep."""
    from .scoring import HeadScores

    found = HeadScores.load(scores).top(top, by)
    if out:
        found.save(out)
    if pasta:
        found.save_pasta(pasta)
    frame = found.to_dataframe()
    _print(frame.to_dict(orient="records") if json_ else frame.round(4).to_string(index=False), json_)


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
    from .heads import HeadList
    from .interventions import Ablator, random_control

    chosen, what = HeadList.load(heads), _intervention(by, positions)
    if not len(chosen):
        raise NasaInterpError(f"{heads} lists no heads; write one with `nasa-interp heads`")
    style, questions = _style(instruction, candidates, kind), _load_data(data, limit, seed)
    ablator = Ablator(_load(model, device, dtype), questions, order, style, seed=seed)  # type: ignore[arg-type]
    effect = ablator.effect(chosen, what)
    control = random_control(ablator, chosen, what, controls, seed=seed) if controls else None
    found = {**effect.to_dict(), "control": None if control is None else asdict(control)}
    if out:
        write_json(out, found)
    if json_:
        _print(found, True)
        return
    typer.echo(effect.changes.to_string(float_format=lambda x: f"{x:+.3f}", na_rep="undefined"))
    if control is not None:
        typer.echo(f"\nmean logit difference: {control}")


@app.command()
def doctor(
    model: ModelArg,
    length: Annotated[int, typer.Option(min=8, help="prompt length in tokens for the memory estimate")] = 1024,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    limit: LimitOpt = None,
) -> None:
    """Can this model be scored, by which engine, how much memory? Checks the hooks against eager attention."""
    from .doctor import SAMPLE, diagnose

    found = diagnose(_load(model, device, dtype), length, limit=limit or SAMPLE, seed=seed)
    _print(found.to_dict() if json_ else found.text(), json_)
    if not found.ok:
        raise NasaInterpError(f"{model} can't be scored: {'; '.join(filter(None, found.engines.values()))}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="run folder")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="fewer questions: a look, not a claim")] = False,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    limit: LimitOpt = None,
) -> None:
    """The whole story on the embedded model, into a run folder."""
    from .demo import run_demo

    story = run_demo(out, quick=quick, seed=seed, device=device, dtype=dtype, limit=limit, say=_say_stage)
    if json_:
        _print(story.to_dict(), True)
    else:
        _print_report(story.report)
        _print_scores(story.scores, 10)
        typer.echo("\n" + story.text())


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0 done, 1 a NasaInterpError, 2 usage, 130 interrupted."""
    warnings.showwarning = _show_warning
    try:
        with _interruptible():
            result = app(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except NasaInterpError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; what was finished is kept")
        return 130
    except Exception as error:
        # Typer carries its own copy of click, whose usage errors know their exit status and how to show themselves.
        if type(error).__name__ == "Abort":
            _say("interrupted; what was finished is kept")
            return 130
        if isinstance(getattr(error, "exit_code", None), int) and hasattr(error, "show"):
            error.show()  # type: ignore[attr-defined]
            return 2
        raise


@contextmanager
def _interruptible() -> Iterator[None]:
    """Makes sure that Ctrl-C is not lost: Python drops an interrupt that happens to hit a destructor."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        _INTERRUPTED.set()
        raise KeyboardInterrupt

    def unraisable(dropped: Any) -> None:
        # The dropped interrupt is raised again; only others are worth a traceback.
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            hook(dropped)

    before, hook = signal.signal(signal.SIGINT, interrupt), sys.unraisablehook
    sys.unraisablehook = unraisable
    try:
        yield
        if _INTERRUPTED.is_set():
            raise KeyboardInterrupt
    finally:
        _INTERRUPTED.clear()
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook


def _say_stage(text: str) -> None:
    """Says a line at the start of a stage, unless an interrupt was dropped in the one before."""
    if _INTERRUPTED.is_set():
        raise KeyboardInterrupt
    _say(text)


def _load(name: str, device: str | None, dtype: str | None) -> Any:
    from .models import load_model

    return load_model(name, device=device, dtype=dtype)


def _load_data(data: str, limit: int | None, seed: int) -> Any:
    # Before the model, so that a mistake in the data shows at once.
    from .questions import load_questions

    return load_questions(data, limit, seed)


def _style(instruction: str | None, candidates: str | None, kind: str) -> Any:
    from .prompts import ORDERS, PromptStyle

    given: dict[str, Any] = {"kind": kind}
    if instruction is not None:
        given["instruction"] = instruction
    if candidates is not None:
        yes, comma, no = candidates.partition(",")
        if not comma:
            raise typer.BadParameter(f"{candidates!r} is not two texts with a comma between", param_hint="--candidates")
        given |= {"yes": yes.strip(), "no": no.strip()}
    style = PromptStyle(**given)
    for order in ORDERS:
        style.render_instruction(order)
    return style


def _intervention(name: str, positions: str | None) -> Any:
    from .interventions import Knockout, Scale, Swap, Zero

    known: dict[str, Any] = {"zero": Zero, "knockout": Knockout, "swap": Swap}
    where: dict[str, Any] = {} if positions is None else {"positions": positions}
    if name in known:
        return known[name](**where)
    try:
        return Scale(float(name), **where)
    except ValueError:
        message = f"{name!r} is none of {', '.join(known)}, nor a factor"
        raise typer.BadParameter(message, param_hint="--do") from None


def _print(content: Any, as_json: bool) -> None:
    typer.echo(json.dumps(jsonable(content), indent=1) if as_json else content)


def _print_report(report: Any) -> None:
    columns = ["part", "n", "accuracy", "precision", "recall", "imbalance", "yes_rate", "auc", "oracle_accuracy", "ece"]
    within = [f"auc_{order}" for order in report.orders] if len(report.orders) > 1 else []
    frame = report.summary_dataframe()[[*columns, "mean_logit_difference", "answer_mass", *within]]
    short = {"oracle_accuracy": "oracle", "mean_logit_difference": "mean d", "answer_mass": "mass"}
    frame = frame.rename(columns=short).set_index("part").astype(object)
    # Precision without a single Yes is undefined; an AUC within an order is given for groups only.
    frame["precision"] = [f"{x:.2f}" if x == x else "undefined" for x in frame["precision"]]
    frame[within] = frame[within].map(lambda x: f"{x:.2f}" if x == x else "")
    typer.echo(frame.to_string(index_names=False, float_format=lambda x: f"{x:.2f}", na_rep="undefined"))
    typer.echo("\n" + report.verdict)


def _print_scores(scores: Any, k: int) -> None:
    frame = scores.to_dataframe().set_index("head")
    for by in ("values", "polarity"):
        if frame[by].isna().all():
            typer.echo(f"\n{by} was not measured: it needs {'order yes_no' if by == 'values' else 'both orders'}")
            continue
        top = scores.top(k, by)
        rows = frame.loc[[str(head) for head in top]]
        typer.echo(f"\ntop {len(top)} heads by {by} ({scores.quantity}, {scores.unit})")
        shown = rows[["values", "polarity", "order", f"{by}_low", f"{by}_high"]]
        typer.echo(shown.to_string(float_format=lambda x: f"{x:+.3f}"))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show_warning(message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None) -> None:
    if issubclass(category, UserWarning):
        _say(f"warning: {message}")


def entry() -> None:
    """The console script."""
    sys.exit(main())
