"""NASA beside its baselines: every method fitted on probe and validation, and asked the test questions once."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..alignment.recipe import Limits, Recipe
from ..alignment.setting import Setting
from ..bootstrap import DRAWS
from ..decisions import BinaryReport
from ..errors import AlignmentError, ResultError
from ..evaluation.paired import Paired, groups_above_chance
from ..heads import HeadList
from ..models import Model, as_model
from ..prompts import PromptStyle
from ..questions import QuestionList
from ..results import hold_setting
from ..run import jsonable
from ..session import describe_run
from ..torch_defaults import under_torch_defaults
from .methods import METHODS, ComparisonSetting, Methods, random_sets
from .table import BASE, LORA, NASA, PARTS, RANDOM, Comparison, Entry, entry_name


@under_torch_defaults
def compare_methods(
    model: Any,
    heads: HeadList | Iterable[Any],
    probe: Any = "builtin:verify#probe",
    val: Any = "builtin:verify#val",
    test: Any = "builtin:verify#test",
    *,
    recipe: Recipe | None = None,
    limits: Limits | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    n_random: int = 10,
    limit: int | None = None,
    methods: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    style: PromptStyle | None = None,
    texts: Sequence[str] | None = None,
    val_texts: Sequence[str] | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> Comparison:
    """Fits NASA and what one would do instead on probe and validation, and asks each the test questions once.

    Args:
        model: as for `align_heads`; it is left as it was.
        heads: the heads that NASA tunes, in ranking order.
        probe, val: questions to tune on, and to decide on; offsets, factors and groups see all of `val`, what is
            tuned sees as many as the recipe says. test: other questions, which decide nothing.
        recipe, limits: of NASA; the LoRA and the random sets get the same.
        seeds: of NASA; the LoRA and the random sets are tuned with the first.
        n_random: random sets of as many heads from the same layers.
        limit: ask about so many test questions only.
        methods: some of `METHODS`; all by default.
        groups: over which recovered accuracy is pooled; None takes `groups_above_chance` of validation,
            as far as they are asked.
        style: as for `build_prompts`.
        texts, val_texts: plain text that is read at the end, and while tuning; None takes the built-in ones.
        folder: where finished methods are kept, so that a killed run goes on, and where the result is written.
        seed: of the draws under `limit`, of the bootstrap, and of the random sets.
        draws: of the bootstrap.
        progress: a bar over methods.

    Returns:
        One table with intervals, the differences from NASA, and a verdict in words.

    Raises:
        QuestionError: test questions that something is fitted on. HeadError: heads outside the model.
        AlignmentError: an unknown method, or a folder of another comparison. ResultError: no group is known.

    Caveat: LoRA and random sets are tuned with one seed; intervals of several runs are over questions and runs.

    Source: ours.
    """
    start, model = time.perf_counter(), as_model(model)
    first = seeds[0] if seeds else seed
    tuning = Setting.of(model, heads, probe, val, recipe or Recipe(), limits or Limits(), style, first)
    model = tuning.model
    chosen = _check_methods(model, methods, seeds)
    sets = random_sets(model, tuning.heads, n_random, seed) if RANDOM in chosen else ()
    setting = ComparisonSetting.of(tuning, probe, val, test, texts, val_texts, limit, seed, draws)
    finished = Finished(folder, setting.digest())
    validated = finished.get(entry_name("validation", ""), lambda: Entry("validation", "", setting.validate())).report
    pooled = _known_of(validated, setting.test) if groups is None else tuple(groups)
    base = finished.get(BASE, lambda: Entry(BASE, "", setting.untuned()))
    Paired(base.report, pooled)  # an unknown group ends it here, not at the end
    runs = Methods(setting, validated, base.report, tuple(seeds), sets, finished.parts).runs(chosen)
    with tqdm(runs, desc="comparing", unit="run", disable=not progress) as bar:
        entries = (base, *(finished.get(run.name, run.make) for run in bar))
    details = {**tuning.to_dict(), "test": setting.test.name, "seeds": list(seeds), "n_random": len(sets)}
    info = describe_run(model, setting.test_prompts, start, tuning.model.engine, tuning.notes)
    comparison = Comparison(entries, pooled, info, jsonable(details))
    if folder is not None:
        comparison.save(folder)
    return comparison


def _known_of(validated: BinaryReport, test: QuestionList) -> tuple[str, ...]:
    """The groups that the model knows by validation, and of which there are test questions."""
    known, asked = groups_above_chance(validated), {q.group for q in test}
    if not asked.intersection(known):
        raise ResultError(
            f"the model knows the groups {', '.join(known)} by validation, and {test.name} asks of none of them: "
            f"nothing that is lost could be recovered; ask more test questions, or give groups"
        )
    return tuple(group for group in known if group in asked)


def _check_methods(model: Model, methods: Sequence[str] | None, seeds: Sequence[int]) -> tuple[str, ...]:
    """The methods that were named; by default all that the model takes."""
    if methods is None:
        # PEFT puts its factors into a plain model's modules.
        methods = [name for name in METHODS if not name.startswith(LORA) or model.has_hf]
    elif any(name.startswith(LORA) for name in methods) and not model.has_hf:
        raise AlignmentError(
            f"a LoRA needs a plain transformers model, and {model.name} runs through hooks: {model.why_hooked}; leave "
            f"'lora' out of the methods"
        )
    if unknown := [name for name in methods if name not in METHODS]:
        raise AlignmentError(f"there is no method {unknown[0]!r} to compare; there are {', '.join(METHODS)}")
    if NASA in methods and not seeds:
        raise AlignmentError("NASA needs a seed to be tuned with; give one or more, such as seeds=(0,)")
    return tuple(methods)


class Finished:
    """Finished entries, on the disk where there is a folder.

    Args:
        folder: None keeps nothing.
        digest: what must be the same for a run to go on.
        parts: the folder's folder that they lie in.

    Raises:
        AlignmentError: the folder holds another comparison.
    """

    def __init__(self, folder: str | Path | None, digest: dict[str, Any], parts: str = PARTS):
        self.parts = None if folder is None else Path(folder) / parts
        if self.parts is None:
            return
        hold_setting(self.parts / "setting.json", digest, folder, AlignmentError)

    def has(self, name: str) -> bool:
        """Whether the entry of this name is there."""
        return self.parts is not None and (self.parts / name / "entry.json").exists()

    def get(self, name: str, make: Callable[[], Entry]) -> Entry:
        """The entry that is there, or a new one, written before it is returned."""
        if self.parts is not None and self.has(name):
            return Entry.load(self.parts / name)
        entry = make()
        if self.parts is not None:
            entry.save(self.parts / name)
        return entry
