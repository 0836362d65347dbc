"""Deciding, scoring and ablating over any number of questions, in parts that are kept."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from ..bootstrap import DRAWS
from ..decisions import report_decisions
from ..errors import warn_user
from ..forward import intervenable
from ..heads import HeadList
from ..interventions import AblationEffect, Intervention, RandomControls, Zero, edits_of, random_heads
from ..models import as_model
from ..prompts import Orders, PromptStyle
from ..questions import QuestionStream
from ..run import RunInfo
from ..scoring import HeadScores
from ..scoring.engine import Engine, choose_engine
from ..scoring.score import check_defined, score_chunk, unit_of
from ..session import PromptSet
from ..torch_defaults import under_torch_defaults
from .heads import MeanByHead
from .parts import Parts
from .report import StreamedReport
from .running import Streamed, decision_columns, head_column
from .world import joined_world


@under_torch_defaults
def stream_decisions(
    model: Any,
    data: Any,
    folder: str | Path,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> StreamedReport:
    """Asks the model any number of questions, with flat memory; what is finished stays, and a killed run goes on.

    Args:
        model, order, style, batch_size, seed, draws, progress: as for `decide`.
        data: a QuestionStream, or what it opens: a `.jsonl` or `.csv` file is never read whole.
        folder: where parts are kept; the same call again goes on there. Under torchrun or `accelerate launch` all
            processes need it.

    Returns:
        The report, the same in all processes; the first writes it to `report.json` in the folder, too.

    Raises:
        ResultError: the folder holds another run. NasaInterpError: another process of this run was lost.

    Source: ours.
    """
    run = _streamed(model, data, order, style, seed, draws, progress)

    def make(asked: PromptSet) -> tuple[Mapping[str, Any], RunInfo]:
        report = report_decisions(run.model, asked, batch_size=batch_size, progress=False, model_hash=run.base)
        return decision_columns(report), report.run

    with joined_world(str(folder)) as world:
        parts = run.parts(folder, "decide")
        run.compute(parts, world, make)
    report = StreamedReport.of(parts, run.run(parts))
    if world.first:
        report.save(parts.folder / "report.json")
    for message in report.warnings:
        warn_user(message)
    return report


@under_torch_defaults
def stream_scores(
    model: Any,
    data: Any,
    folder: str | Path,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    engine: Engine = "auto",
    per: Literal["prompt", "query"] = "prompt",
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> HeadScores:
    """The NAS of every head over any number of questions, with flat memory; a killed run goes on.

    Args:
        model, order, style, engine, per, batch_size, seed, draws, progress: as for `score_heads`. The engines are held
            to each other on the first chunk.
        data, folder: as for `stream_decisions`.

    Returns:
        The scores with intervals, without each prompt's own, which lie in the parts: the same in all processes. The
        first writes them to `scores.json` in the folder, too.

    Raises:
        As `score_heads` and `stream_decisions` do.

    Source: the paper, section on NAS; the Poisson bootstrap's intervals are ours.
    """
    run = _streamed(model, data, order, style, seed, draws, progress)
    unit = unit_of(per)
    with joined_world(str(folder)) as world:
        check_defined(run.first)
        choice = choose_engine(run.model, run.first.batches[0], engine)
        parts = run.parts(folder, "score", engine=choice.engine, per=per)

        def make(asked: PromptSet) -> tuple[Mapping[str, Any], RunInfo]:
            scored = score_chunk(run.model, asked, choice, per, batch_size, engine == "fused")
            notes = (*asked.questions.notes, *asked.notes, *scored.notes)
            told = RunInfo(run.model.name, "", len(asked.questions), asked.orders, engine=scored.engine, notes=notes)
            told = replace(told, dtype=str(run.model.dtype).removeprefix("torch."))
            return {f"nas_{o}": head_column(values) for o, values in scored.per_prompt.items()}, told

        run.compute(parts, world, make)
    means = MeanByHead.over(parts, run.run(parts), (run.model.n_layers, run.model.n_heads))
    columns, intervals = means.columns(HeadScores), means.intervals(HeadScores)
    scores = HeadScores(columns, intervals, means.run, unit=unit)
    if world.first:
        scores.save(parts.folder / "scores.json")
    return scores


@dataclass(frozen=True, eq=False)
class StreamedAblation:
    """What a change of heads does to any number of decisions.

    Args:
        effect: of the chosen heads.
        controls: the same intervention on random heads; None without any.
    """

    effect: AblationEffect
    controls: RandomControls | None


@under_torch_defaults
def stream_ablation(
    model: Any,
    data: Any,
    heads: HeadList | Iterable[Any],
    folder: str | Path,
    intervention: Intervention | None = None,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    n_random: int = 0,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> StreamedAblation:
    """Changes heads and asks any number of questions again, with flat memory; a killed run goes on.

    Args:
        model, heads, intervention, order, style, seed, draws, progress: as for `ablation_effect`.
        data, folder: as for `stream_decisions`.
        n_random: layer-matched random sets, drawn by `seed`, that get the same intervention.

    Returns:
        The effect and its controls, the same in all processes.

    Raises:
        As `ablation_effect` and `stream_decisions` do.

    Source: ours.
    """
    run, what = _streamed(model, data, order, style, seed, draws, progress), intervention or Zero()
    shape, rng = (run.model.n_layers, run.model.n_heads), np.random.default_rng(seed)
    chosen = HeadList.of(heads).check(*shape)
    sets = {"changed_": chosen} | {f"random{i}_": random_heads(chosen, *shape, rng) for i in range(n_random)}
    with joined_world(str(folder)) as world:
        changeable = intervenable(run.model, run.first.batches[0])
        told = {name: [str(head) for head in each] for name, each in sets.items()}
        parts = run.parts(folder, "ablate", intervention=repr(what), heads=told)

        def make(asked: PromptSet) -> tuple[Mapping[str, Any], RunInfo]:
            options: dict[str, Any] = {"progress": False, "fused_only": True, "model_hash": run.base}
            report = report_decisions(changeable, asked, **options)
            columns = decision_columns(report)
            for name, each in sets.items():
                changed = report_decisions(changeable, asked, edits=edits_of(each, what), **options)
                columns |= decision_columns(changed, name)
            return columns, report.run

        run.compute(parts, world, make)
    return _ablation(parts, run.run(parts), chosen, what, list(sets), progress and world.first)


def _ablation(
    parts: Parts, run: RunInfo, chosen: HeadList, what: Intervention, names: list[str], progress: bool
) -> StreamedAblation:
    """The effects from the parts, one set of heads at a time."""
    base = StreamedReport.of(parts, run)
    note = (*run.notes, f"{what} on {', '.join(map(str, chosen))}")
    effect = AblationEffect(chosen, what, base, StreamedReport.of(parts, replace(run, notes=note), names[0]))
    for message in effect.warnings:
        warn_user(message)
    if not names[1:]:
        return StreamedAblation(effect, None)
    sets = tqdm(names[1:], desc="random heads", unit="set", disable=not progress)
    others = (AblationEffect(chosen, what, base, StreamedReport.of(parts, run, name)) for name in sets)
    return StreamedAblation(effect, RandomControls.against(effect, others, True))


def _streamed(
    model: Any, data: Any, order: Orders, style: PromptStyle | None, seed: int, draws: int, progress: bool
) -> Streamed:
    start, stream = time.perf_counter(), QuestionStream.open(data)
    return Streamed(as_model(model), stream, order, style, seed, draws, progress, start)
