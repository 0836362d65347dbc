"""Tunes heads, compares that, carries it over, exports it: `align`, `compare`, `transfer`, `export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import NasaInterpError
from .app import app
from .options import (
    HeadsOpt,
    JsonOpt,
    LimitOpt,
    ModelArg,
    ModelOptions,
    PromptOptions,
    SeedOpt,
    SkipBadOpt,
    UnlabeledOpt,
    check_out_folder,
    load_data,
    load_heads,
)
from .shared import with_shared_options
from .show import print_result

ProbeOpt = Annotated[str, typer.Option(help="questions to tune on")]
ValOpt = Annotated[str, typer.Option(help="questions that decide what is kept; none of them may be tuned on")]


@dataclass(frozen=True)
class TuningOptions:
    """How heads are tuned, and what that may cost, as given; None stands for the default of `Recipe` or `Limits`."""

    objective: Annotated[
        str | None,
        typer.Option(help="answer, balance, nas or own, or a sum such as answer+0.5*nas; answer with labels, else own"),
    ] = None
    prior: Annotated[float | None, typer.Option(help="without labels: how often yes is expected to be right")] = None
    projections: Annotated[str, typer.Option(help="which slices of a head to tune: letters out of qkvo")] = "qo"
    at_once: Annotated[
        int | None, typer.Option(min=1, help="heads tuned together, by default all; 1: one after another")
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="most steps that heads tuned together, or one head, get"),
    ] = None
    rate: Annotated[float | None, typer.Option(help="learning rate of Adam, as a share of the weights' own size")] = (
        None
    )
    share: Annotated[bool, typer.Option("--share", help="tune keys and values that other heads use too")] = False
    imbalance: Annotated[float | None, typer.Option(help="target: imbalance within this of 0 in each order")] = None
    auc: Annotated[float | None, typer.Option(help="the most AUC that a change may cost on validation")] = None
    perplexity: Annotated[float | None, typer.Option(help="the most that perplexity may be multiplied by")] = None

    def recipe(self, questions: int | None = None) -> Any:
        """How heads are tuned; `questions`: how many are drawn to tune on, and as many to validate on."""
        from ..alignment import Recipe

        changes = {"heads_at_once": self.at_once, "steps": self.steps, "learning_rate": self.rate}
        changes |= {"probe_questions": questions, "val_questions": questions}
        changes |= {"prior": self.prior}
        objective = None if self.objective is None else objective_of(self.objective)
        return Recipe(objective=objective, projections=self.projections, share=self.share, **_given(changes))

    def limits(self) -> Any:
        """What tuning aims at and may cost."""
        from ..alignment import Limits

        return Limits(**_given({"imbalance": self.imbalance, "auc": self.auc, "perplexity": self.perplexity}))


@app.command()
@with_shared_options
def align(
    model: ModelArg,
    *,
    heads: HeadsOpt,
    out: Annotated[Path, typer.Option(help="run folder; an interrupted run goes on after its last finished step")],
    probe: ProbeOpt = "builtin:verify#probe",
    val: ValOpt = "builtin:verify#val",
    unlabeled: UnlabeledOpt = False,
    skip_bad: SkipBadOpt = False,
    tuning: TuningOptions,
    prompt: PromptOptions,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    placement: ModelOptions,
    limit: LimitOpt = None,
) -> None:
    """Tune only these heads, and keep only what costs little."""
    from ..alignment import align_heads
    from ..alignment.result import FILES_OF_A_RUN

    recipe, limits = tuning.recipe(limit), tuning.limits()
    check_out_folder(out, FILES_OF_A_RUN)
    chosen, style = load_heads(heads), prompt.style()
    questions = load_data(probe, None, seed, unlabeled, skip_bad), load_data(val, None, seed, unlabeled, skip_bad)
    run = align_heads(
        placement.load(model), chosen, *questions, recipe=recipe, limits=limits, style=style, folder=out, seed=seed
    )
    if json_:
        print_result({"summary": repr(run), "table": run.log.to_dict(orient="records"), "folder": out}, True)
        return
    if len(run.log):
        columns = ["head", "accepted", "steps", "imbalance_yes_no", "imbalance_no_yes", "auc_after", "perplexity_ratio"]
        print_result(run.log[columns].round(3).to_string(index=False), False)
    print_result(f"\n{run!r}\nwritten to {out}; `nasa-interp export {out} --out DIR` writes the tuned model", False)


@app.command()
@with_shared_options
def compare(
    model: ModelArg,
    *,
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
    tuning: TuningOptions,
    skip_bad: SkipBadOpt = False,
    prompt: PromptOptions,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    placement: ModelOptions,
    limit: LimitOpt = None,
) -> None:
    """Tuned heads beside an offset, ablation, averaged orders, a LoRA and random heads, on questions kept apart."""
    from ..comparison import compare_methods
    from ..comparison.table import NAME, NASA

    recipe, limits = tuning.recipe(), tuning.limits()
    check_out_folder(out, {NAME: "comparison"})
    chosen, style = load_heads(heads), prompt.style()
    data = [load_data(name, None, seed, skip_bad=skip_bad) for name in (probe, val, test)]
    comparison = compare_methods(
        placement.load(model),
        chosen,
        *data,
        recipe=recipe,
        limits=limits,
        seeds=tuple(range(seed, seed + seeds)),
        n_random=random,
        limit=limit,
        methods=None if methods is None else tuple(name.strip() for name in methods.split(",")),
        style=style,
        folder=out,
        seed=seed,
    )
    if json_:
        tables = {"table": comparison.to_dataframe()}
        if NASA in comparison.methods:
            tables["differences"] = comparison.differences()
        rows = {name: table.to_dict(orient="records") for name, table in tables.items()}
        print_result({**rows, "verdict": comparison.verdict}, True)
        return
    print_result("\n".join((comparison.text(), "", *comparison.verdict)), False)


@app.command()
@with_shared_options
def transfer(
    model: ModelArg,
    *,
    heads: HeadsOpt,
    out: Annotated[Path | None, typer.Option(help="run folder; finished cells are kept there")] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="labeled questions of your own, asked too; may be given again")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="some methods, with commas between; all by default")] = None,
    unlabeled: Annotated[int, typer.Option(min=2, help="questions of each that calibrations are fitted on")] = 64,
    seeds: Annotated[int, typer.Option(min=1, help="seeds that the heads are tuned with")] = 1,
    random: Annotated[
        str, typer.Option(help="random layer-matched head sets, or with commas one number a condition, such as 19,3,3")
    ] = "3",
    skip_bad: SkipBadOpt = False,
    tuning: TuningOptions,
    json_: JsonOpt = False,
    seed: SeedOpt = 0,
    placement: ModelOptions,
    limit: LimitOpt = None,
) -> None:
    """What is a cure worth where it was not fitted? Other kinds of questions, wordings and candidates."""
    from ..transfer import Condition, builtin_conditions, transfer_matrix

    recipe, limits = tuning.recipe(), tuning.limits()
    check_out_folder(out, {"transfer.json": "transfer"})
    chosen, (fitted, asked) = load_heads(heads), builtin_conditions(limit, seed)
    asked += [Condition(name, load_data(name, limit, seed, skip_bad=skip_bad)) for name in data or ()]
    found = transfer_matrix(
        placement.load(model),
        chosen,
        fitted,
        asked,
        methods=None if methods is None else tuple(name.strip() for name in methods.split(",")),
        n_unlabeled=unlabeled,
        seeds=tuple(range(seed, seed + seeds)),
        n_random=_counts(random),
        recipe=recipe,
        limits=limits,
        folder=out,
        seed=seed,
    )
    if json_:
        print_result({"table": found.table.to_dict(orient="records"), "verdict": found.verdict}, True)
        return
    print_result(f"{found.summary().round(3).to_string(index=False)}\n\n{found.verdict}", False)


def _counts(text: str) -> int | list[int]:
    """One number of random sets for all, or one for each condition."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [-1]
    if min(counts) < 0:
        raise NasaInterpError(f"--random {text!r} is no number of head sets; give one such as 3, or one each: 19,3,3")
    return counts[0] if len(counts) == 1 else counts


@app.command()
@with_shared_options
def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="the folder that `align` wrote; or a MODEL, which is written as it is")
    ],
    *,
    out: Annotated[Path, typer.Option(help="a new folder")],
    format_: Annotated[
        Literal["hf", "peft", "delta", "gguf", "gguf-lora"],
        typer.Option("--format", help="hf, peft, delta, gguf or gguf-lora"),
    ] = "hf",
    model: Annotated[str | None, typer.Option(help="the base model, where it is known by another name now")] = None,
    base: Annotated[
        Path | None, typer.Option(help="for gguf formats: a GGUF file of the base, if it wasn't loaded from one")
    ] = None,
    stored: Annotated[
        Literal["float32", "float16"], typer.Option(help="what gguf stores changed tensors as: float32 or float16")
    ] = "float32",
    json_: JsonOpt = False,
    placement: ModelOptions,
) -> None:
    """Write the tuned model: for transformers, an adapter for PEFT, files for llama.cpp, or the change alone.

    Or any model as it is, for transformers.
    """
    from ..alignment.result import DELTA
    from ..deltas import HeadDelta
    from ..deltas import export as write
    from ..evaluation import with_evaluation

    check_out_folder(out)
    if out.is_dir() and any(out.iterdir()):
        raise NasaInterpError(f"{out} is not empty; name a new folder, or empty it")
    folder = Path(run)
    if folder.is_dir() and not (folder / DELTA).exists() and not (folder / "config.json").exists():
        raise NasaInterpError(f"{run} is no run folder; give the one that `nasa-interp align --out` wrote")
    delta = HeadDelta.load(folder / DELTA) if (folder / DELTA).exists() else None
    loaded = placement.load(model or (run if delta is None else delta.base_model))
    change = delta and with_evaluation(loaded, delta, folder)
    written = write(loaded, change, out, format=format_, base=base, stored=stored)
    print_result({"folder": written, "format": format_} if json_ else f"written to {written}", json_)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Only the options that were given, so that defaults are defined in one place."""
    return {name: value for name, value in options.items() if value is not None}


def objective_of(text: str) -> Any:
    """The objective of this name, or the weighted sum that the text spells out."""
    from ..alignment import OBJECTIVES, WeightedSum

    terms = []
    for term in text.split("+"):
        weight, star, name = term.strip().rpartition("*")
        try:
            terms.append((float(weight) if star else 1.0, OBJECTIVES[name.strip()]()))
        except (KeyError, ValueError):
            message = f"{term!r} is none of {', '.join(OBJECTIVES)}, nor a factor times one"
            raise typer.BadParameter(message, param_hint="--objective") from None
    return terms[0][1] if len(terms) == 1 and terms[0][0] == 1 else WeightedSum(tuple(terms))
