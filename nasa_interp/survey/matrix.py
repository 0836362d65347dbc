"""The verb: every data set asked in every form, cell by cell."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..bootstrap import DRAWS
from ..decisions import BinaryReport, MeasuredDecisions, decide
from ..errors import NasaInterpError, PromptError, ResultError
from ..knowledge import STATES, Knowledge, Shortcut, ask_openly, shortcut
from ..models import Model, as_model
from ..prompts import PromptStyle, load_form
from ..questions import SHORT, QuestionList, QuestionStream, load_short
from ..questions.resolve import resolve_questions
from ..results import hold_setting
from ..run import digest_of, jsonable, read_json, write_json
from ..scoring import HeadScores, score_heads
from ..scoring.score import LEFT_OUT
from ..streams import stream_decisions, stream_scores, world_rank
from ..thinking import CUT
from ..torch_defaults import under_torch_defaults
from .table import FormMatrix, row_of

# Heads of which cells share some or none.
TOP = 10
CELLS = "matrix"


@under_torch_defaults
def form_matrix(
    model: Any,
    data: Sequence[Any],
    forms: Sequence[Any] = ("yes-no",),
    *,
    limit: int | None = 60,
    limits: Mapping[str, int] | None = None,
    known: int | None = None,
    heads: bool = True,
    folder: str | Path | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> FormMatrix:
    """Asks every data set in every form, in both candidate orders, and finds the heads that lead in each cell.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        data: data specifications, or lists of questions with a name; or QuestionStreams, which are asked whole in parts
            that `folder` keeps, whatever the limits, and by all processes of a torchrun together.
        forms: names of forms, `.toml` files, or styles; the first of them and the first data are what the heads of the
            others are compared with.
        limit: so many questions of each, drawn evenly from the groups.
        limits: other numbers for some data, by name, or for some forms, by theirs; the smaller one counts.
        known: ask questions with short answers openly, too, once greedily and so many times drawn, and part their cells
            by what the model knows; None doesn't.
        heads: score the heads, too; False only decides.
        folder: where finished cells are kept, so that a killed run goes on, and where the result is written.
        seed, draws: of the draws of questions, and of the bootstrap.
        progress: a bar over cells.

    Returns:
        One row a cell and state of knowledge, and the reports behind them. A cell that can't be asked says why.

    Raises:
        ResultError: no data, no form, or a folder of another model; a stream without a folder; a limit for something
            else.

    Source: ours, after the questions of the follow-up (arXiv 2511.10881).
    """
    start, model = time.perf_counter(), as_model(model)
    if not data or not forms:
        raise ResultError("a matrix needs data and a form; give one of each, or more")
    styles = {
        str(form) if isinstance(form, (str, Path)) else f"form {i}": load_form(form) for i, form in enumerate(forms)
    }
    given, names = dict(limits or {}), [str(getattr(each, "name", each)) for each in data]
    if unknown := sorted(set(given) - {*names, *styles}):
        raise ResultError(f"a limit is for {unknown[0]!r}, which is no data and no form here; name one of them")
    if folder is None and any(isinstance(each, QuestionStream) for each in data):
        raise ResultError("a stream is asked in parts, which need a place; give folder=")
    plan = [
        (_asked(each, _least(limit, given, str(getattr(each, "name", each)), form), seed), form, style)
        for each in data
        for form, style in styles.items()
    ]
    cells = _Cells(model, None if folder is None else Path(folder), seed, draws, heads)
    rows, reports, shortcuts = [], {}, {}
    with tqdm(plan, desc="matrix", unit="cell", disable=not progress) as bar:
        for questions, form, style in bar:
            bar.set_postfix_str(f"{questions.name}, {form}")
            facts, report = cells.get(questions, form, style)
            if report is not None:
                facts = facts | {"note": "; ".join(filter(None, (facts["note"], *_cut(report))))}
            rows.append(row_of(questions.name, form, "all", report, facts))
            if report is None:
                continue
            reports[questions.name, form] = report
            if (knowledge := cells.knowledge(questions, known)) is None:
                continue
            parts = _states(report, knowledge)
            rows += [row_of(questions.name, form, state, part, facts | {"heads": []}) for state, part in parts]
            shortcuts[questions.name, form] = _shortcut(report, knowledge, form)
    details = {"base": cells.base, "seed": seed, "limit": limit, "n_heads": model.n_layers * model.n_heads}
    if not reports:
        raise ResultError(f"no cell could be asked; the first: {rows[0]['note']}")
    run = replace(
        next(iter(reports.values())).run,
        data=f"{len(data)} data x {len(styles)} forms",
        n_questions=sum(row["n"] for row in rows if row["known"] == "all"),
        seconds=round(time.perf_counter() - start, 3),
    )
    found = FormMatrix.of(rows, reports, run, details, [each for each in shortcuts.values() if each is not None])
    if folder is not None and world_rank() == 0:
        found.save(Path(folder) / "matrix.json")
    return found


def _asked(data: Any, limit: int | None, seed: int) -> QuestionList | QuestionStream:
    """A cell's questions; a stream as it is."""
    return data if isinstance(data, QuestionStream) else resolve_questions(data, limit, seed)


def _least(limit: int | None, limits: Mapping[str, int], *names: str) -> int | None:
    """The smallest of the numbers that hold for a cell."""
    holding = [n for n in (limit, *(limits.get(name) for name in names)) if n is not None]
    return min(holding, default=None)


def _cut(report: MeasuredDecisions) -> list[str]:
    """Of its notes those of thoughts that ended for want of room."""
    return [note for note in report.run.notes if CUT in note]


def _shortcut(report: Any, knowledge: Knowledge, form: str) -> Shortcut | None:
    """The claim that No is a shortcut without knowledge; None where a side has no decisions."""
    try:
        return replace(shortcut(report, knowledge), form=form)
    except ResultError:
        return None


def _states(report: Any, knowledge: Knowledge) -> list[tuple[str, BinaryReport]]:
    """The decisions on the questions of each state that there are any of."""
    states = [knowledge.of(question) for question in report.questions]
    parts = []
    for state in STATES:
        rows = [i for i, found in enumerate(states) if found == state]
        if rows:
            parts.append((state, report.select(rows)))
    return parts


def _renamed(report: BinaryReport, questions: QuestionList) -> BinaryReport:
    """A kept report under the name that its data has now: the same questions may lie elsewhere."""
    return replace(report, run=replace(report.run, data=questions.name))


class _Cells:
    """Cells, computed or read from where they are kept.

    Args:
        model: what is asked.
        folder: of the run; None keeps nothing.
        seed, draws: of the bootstrap.
        heads: whether heads are scored.
    """

    def __init__(self, model: Model, folder: Path | None, seed: int, draws: int, heads: bool):
        self.model, self.seed, self.draws, self.heads = model, seed, draws, heads
        self.base = model.weights_hash()
        self.known: dict[str, Knowledge] = {}
        self.folder = None if folder is None else folder / CELLS
        if self.folder is None:
            return
        hold_setting(self.folder / "setting.json", {"base": self.base, "seed": seed, "draws": draws}, folder)

    def get(
        self, questions: QuestionList | QuestionStream, form: str, style: PromptStyle
    ) -> tuple[dict[str, Any], MeasuredDecisions | None]:
        """What is known of the cell besides its report, and that: None where it can't be asked, as the note says."""
        if isinstance(questions, QuestionStream):
            return self._streamed(questions, style)
        place = None
        if self.folder is not None:
            place = self.folder / digest_of([*questions, style.to_dict(), self.heads])
            if (place / "cell.json").exists():
                facts = read_json(place / "cell.json")
                asked = facts["note"] == "" or (place / "report.json").exists()
                return facts, _renamed(BinaryReport.load(place / "report.json"), questions) if asked else None
        facts, report = self._make(questions, style)
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            if report is not None:
                report.save(place / "report.json")
            # The last that is written: where it is, the cell is whole.
            write_json(place / "cell.json", jsonable(facts | {"data": questions.name, "form": form}))
        return facts, report

    def _streamed(self, stream: QuestionStream, style: PromptStyle) -> tuple[dict[str, Any], MeasuredDecisions | None]:
        """A cell of a stream, whose parts are what is kept."""
        assert self.folder is not None
        place = self.folder / digest_of([stream.digest, style.to_dict()])
        return self._facts(
            lambda options: stream_decisions(self.model, stream, place / "decisions", style=style, **options),
            lambda options: stream_scores(self.model, stream, place / "scores", style=style, **options),
        )

    def knowledge(self, questions: QuestionList | QuestionStream, samples: int | None) -> Knowledge | None:
        """What the model knows of the short questions behind these; None where they have none."""
        source = questions.name.partition(":")[0]
        if samples is None or source not in SHORT or isinstance(questions, QuestionStream):
            return None
        pairs = {q.pair for q in questions}
        key = digest_of([questions.name.partition("#")[0], sorted(map(str, pairs)), samples, self.seed])
        place = None if self.folder is None else self.folder / f"knowledge-{key}.json"
        if key not in self.known and place is not None and place.exists():
            self.known[key] = Knowledge.load(place)
        if key not in self.known:
            short = [q for q in load_short(questions.name) if q.id in pairs]
            self.known[key] = ask_openly(self.model, short, samples=samples, seed=self.seed, progress=False)
            if place is not None:
                self.known[key].save(place)
        return self.known[key]

    def _make(self, questions: QuestionList, style: PromptStyle) -> tuple[dict[str, Any], BinaryReport | None]:
        return self._facts(
            lambda options: decide(self.model, questions, style=style, **options),
            lambda options: score_heads(self.model, questions, style=style, **options),
        )

    def _facts(self, decided: Callable[[Any], Any], scored: Callable[[Any], HeadScores]) -> Any:
        """A cell's facts and report; None where it can't be asked."""
        start, options = time.perf_counter(), {"seed": self.seed, "draws": self.draws, "progress": False}
        try:
            report = decided(options)
        except PromptError as error:
            return {"heads": [], "seconds": 0.0, "note": str(error)}, None
        facts: dict[str, Any] = {"heads": [], "note": ""}
        if self.heads:
            try:
                scores = scored(options)
                # However few heads look at No: a small model has less than ten.
                facts["heads"] = [str(head) for head in scores.looking("polarity")[:TOP]]
                facts["note"] = "; ".join(note for note in scores.run.notes if LEFT_OUT in note)
            except NasaInterpError as error:
                facts["note"] = f"no heads: {error}"
        return facts | {"seconds": round(time.perf_counter() - start, 2)}, report
