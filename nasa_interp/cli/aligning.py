"""Tuning the heads, the worth of that beside other ways, taking the model away: `align`, `compare`, `export`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import NasaInterpError
from .app import app
from .options import (
    AllowSpecialOpt,
    CandidatesOpt,
    DeviceOpt,
    DtypeOpt,
    InstructionOpt,
    JsonOpt,
    KindOpt,
    LimitOpt,
    ModelArg,
    SeedOpt,
    check_out_folder,
    load,
    load_data,
    load_heads,
    one_of,
    style_of,
)
from .show import print_result

HeadsOpt = Annotated[Path, typer.Option("--heads", help="a head list: what `heads --out` wrote, CSV, or PASTA JSON")]
ProbeOpt = Annotated[str, typer.Option(help="questions to tune on")]
ValOpt = Annotated[str, typer.Option(help="questions that decide what is kept; none of them may be tuned on")]
ObjectiveOpt = Annotated[str, typer.Option(help="answer, balance or nas, or a sum such as answer+0.5*nas")]
ProjectionsOpt = Annotated[str, typer.Option(help="which slices of a head to tune: letters out of qkvo")]
AtOnceOpt = Annotated[
    int | None, typer.Option(min=1, help="heads tuned together, by default all; 1: one after another")
]
StepsOpt = Annotated[int | None, typer.Option(min=1, help="most steps that heads tuned together, or one head, get")]
RateOpt = Annotated[float | None, typer.Option(help="learning rate of Adam")]
ShareOpt = Annotated[bool, typer.Option("--share", help="tune keys and values that other heads use too")]
ImbalanceOpt = Annotated[float | None, typer.Option(help="target: imbalance within this of 0 in each order")]
AucOpt = Annotated[float | None, typer.Option(help="the most AUC that a change may cost on validation")]
PerplexityOpt = Annotated[float | None, typer.Option(help="the most that perplexity may be multiplied by")]


@app.command()
def align(
    model: ModelArg,
    heads: HeadsOpt,
    out: Annotated[Path, typer.Option(help="run folder; an interrupted run goes on after its last finished step")],
    probe: ProbeOpt = "builtin:verify#probe",
    val: ValOpt = "builtin:verify#val",
    objective: ObjectiveOpt = "answer",
    projections: ProjectionsOpt = "q",
    at_once: AtOnceOpt = None,
    steps: StepsOpt = None,
    rate: RateOpt = None,
    share: ShareOpt = False,
    imbalance: ImbalanceOpt = None,
    auc: AucOpt = None,
    perplexity: PerplexityOpt = None,
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
    """Tune only these heads, and keep only what costs little."""
    from ..alignment import align_heads
    from ..alignment.result import DELTA, LOG

    recipe = _recipe(objective, projections, share, at_once, steps, rate, limit)
    limits = _limits(imbalance, auc, perplexity)
    check_out_folder(out, {LOG: "alignment", DELTA: "head_delta"})
    chosen, style = load_heads(heads), style_of(instruction, candidates, kind, allow_special)
    questions = load_data(probe, None, seed), load_data(val, None, seed)
    run = align_heads(
        load(model, device, dtype), chosen, *questions, recipe=recipe, limits=limits, style=style, folder=out, seed=seed
    )
    if json_:
        print_result({"summary": repr(run), "table": run.log.to_dict(orient="records"), "folder": out}, True)
        return
    if len(run.log):
        columns = ["head", "accepted", "steps", "imbalance_yes_no", "imbalance_no_yes", "auc_after", "perplexity_ratio"]
        print_result(run.log[columns].round(3).to_string(index=False), False)
    print_result(f"\n{run!r}\nwritten to {out}; `nasa-interp export {out} --out DIR` writes the tuned model", False)


@app.command()
def compare(
    model: ModelArg,
    heads: HeadsOpt,
    probe: ProbeOpt = "builtin:verify#probe",
    val: ValOpt = "builtin:verify#val",
    test: Annotated[
        str, typer.Option(help="questions that are asked once, of what was fitted")
    ] = "builtin:verify#test",
    out: Annotated[Path | None, typer.Option(help="run folder; finished methods are kept there")] = None,
    methods: Annotated[str | None, typer.Option(help="some methods, with commas between; all by default")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="seeds that the heads are tuned with")] = 3,
    random: Annotated[int, typer.Option(min=0, help="random layer-matched head sets")] = 10,
    objective: ObjectiveOpt = "answer",
    projections: ProjectionsOpt = "q",
    at_once: AtOnceOpt = None,
    steps: StepsOpt = None,
    rate: RateOpt = None,
    share: ShareOpt = False,
    imbalance: ImbalanceOpt = None,
    auc: AucOpt = None,
    perplexity: PerplexityOpt = None,
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
    """Tuned heads beside an offset, ablation, averaged orders, a LoRA and random heads, on questions kept apart."""
    from ..comparison import compare_methods
    from ..comparison.table import NAME, NASA

    check_out_folder(out, {NAME: "comparison"})
    chosen, style = load_heads(heads), style_of(instruction, candidates, kind, allow_special)
    data = [load_data(each, None, seed) for each in (probe, val, test)]
    found = compare_methods(
        load(model, device, dtype),
        chosen,
        *data,
        recipe=_recipe(objective, projections, share, at_once, steps, rate, None),
        limits=_limits(imbalance, auc, perplexity),
        seeds=tuple(range(seed, seed + seeds)),
        n_random=random,
        limit=limit,
        methods=None if methods is None else tuple(name.strip() for name in methods.split(",")),
        style=style,
        folder=out,
        seed=seed,
    )
    if json_:
        tables = {"table": found.to_dataframe()}
        if NASA in found.methods:
            tables["differences"] = found.differences()
        rows = {name: table.to_dict(orient="records") for name, table in tables.items()}
        print_result({**rows, "verdict": found.verdict}, True)
        return
    print_result("\n".join((found.text(), "", *found.verdict)), False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder that `align` wrote")],
    out: Annotated[Path, typer.Option(help="a new folder")],
    format_: Annotated[str, typer.Option("--format", help="hf, peft or delta")] = "hf",
    model: Annotated[str | None, typer.Option(help="the base model, where it is known by another name now")] = None,
    json_: JsonOpt = False,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
) -> None:
    """Write the tuned model: a folder for transformers, an adapter for PEFT, or the change alone."""
    from ..alignment.result import DELTA
    from ..deltas import HeadDelta
    from ..deltas import export as write
    from ..evaluation import with_evaluation

    one_of(format_, ("hf", "peft", "delta"), "--format")
    if not run.is_dir():
        raise NasaInterpError(f"{run} is no run folder; give the one that `nasa-interp align --out` wrote")
    check_out_folder(out)
    if out.is_dir() and any(out.iterdir()):
        raise NasaInterpError(f"{out} is not empty; name a new folder, or empty it")
    delta = HeadDelta.load(run / DELTA)
    base = load(model or delta.base_model, device, dtype)
    folder = write(base, with_evaluation(base, delta, run), out, format=format_)  # type: ignore[arg-type]
    print_result({"folder": folder, "format": format_} if json_ else f"written to {folder}", json_)


def _recipe(
    objective: str,
    projections: str,
    share: bool,
    at_once: int | None,
    steps: int | None,
    rate: float | None,
    limit: int | None,
) -> Any:
    from ..alignment import Recipe

    changes = {"heads_at_once": at_once, "steps": steps, "learning_rate": rate}
    changes |= {"probe_questions": limit, "val_questions": limit}
    return Recipe(objective=_objective(objective), projections=projections, share=share, **_given(changes))


def _limits(imbalance: float | None, auc: float | None, perplexity: float | None) -> Any:
    from ..alignment import Limits

    return Limits(**_given({"imbalance": imbalance, "auc": auc, "perplexity": perplexity}))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; what wasn't keeps its default in one place."""
    return {name: value for name, value in options.items() if value is not None}


def _objective(text: str) -> Any:
    from ..alignment import Answer, Balance, NegativeAttention, WeightedSum

    known = {"answer": Answer, "balance": Balance, "nas": NegativeAttention}
    terms = []
    for term in text.split("+"):
        weight, star, name = term.strip().rpartition("*")
        try:
            terms.append((float(weight) if star else 1.0, known[name.strip()]()))
        except (KeyError, ValueError):
            message = f"{term!r} is none of {', '.join(known)}, nor a factor times one"
            raise typer.BadParameter(message, param_hint="--objective") from None
    return terms[0][1] if len(terms) == 1 and terms[0][0] == 1 else WeightedSum(tuple(terms))
