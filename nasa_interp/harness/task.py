"""Writes questions as tasks of lm-evaluation-harness and inspect_ai, which then ask exactly our prompts."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ResultError
from ..prompts import Order, Orders, PromptBatch, PromptStyle, UserTurns, build_prompts, user_turns
from ..questions import BinaryQuestion, QuestionList
from ..questions.resolve import resolve_questions
from ..results import whole_folder
from ..run import json_text, library_versions
from ..session import orders_of
from .commands import commands, readme
from .refusals import check_labels, check_style
from .tokens import template_arguments
from .yaml_files import group_yaml, rows_file, task_yaml

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class HarnessTask:
    """Where a task was written, and how it is run.

    Args:
        folder: with all its files; it may be moved.
        name: of the group; its tasks are NAME_yes_no and NAME_no_yes.
        kind: "chat" or "plain".
        orders: in which the candidates stand.
        n_questions: how many are asked in each.
        commands: by program, what to type.
    """

    folder: Path
    name: str
    kind: str
    orders: tuple[Order, ...]
    n_questions: int
    commands: Mapping[str, str]


def write_task(
    tokenizer: Any,
    data: Any,
    folder: str | Path,
    *,
    name: str | None = None,
    style: PromptStyle | None = None,
    order: Orders = "both",
    limit: int | None = None,
    seed: int = 0,
) -> HarnessTask:
    """Writes questions as a group of lm-evaluation-harness tasks, and as tasks of inspect_ai.

    Args:
        tokenizer: of the models that will be asked, or a `Model`; nothing else of a model is needed.
        data: questions with labels, or a data specification.
        folder: a new or empty folder; it appears complete or not at all.
        name: of the group; by default made of the data's name and the kind of prompt.
        style: wording and candidates, each of one token.
        order: the orders of the candidates, a task each.
        limit, seed: ask so many questions only, drawn as by `decide`.

    Returns:
        Where it lies, and the commands that run it.

    Raises:
        PromptError: for a form, candidates or a question that the harness can't ask in exactly our tokens.
        ResultError: for a folder with files in it, or a name that is none.

    Caveat:
        exact for this tokenizer; another model's may need its own task. The harness is told on its command line to
        fill in a chat template; where that is forgotten, it asks without one.

    Source: ours.
    """
    tokenizer, style = getattr(tokenizer, "tokenizer", tokenizer), style or PromptStyle()
    check_style(style)
    questions = resolve_questions(data, limit, seed)
    check_labels(questions)
    orders = orders_of(order)
    asked: dict[Order, PromptBatch] = {o: build_prompts(tokenizer, questions, o, style) for o in orders}
    turns: dict[Order, UserTurns] = {o: user_turns(tokenizer, prompts) for o, prompts in asked.items()}
    fitting = {o: template_arguments(tokenizer, asked[o], turns[o]) for o in orders}
    first, arguments = asked[orders[0]], fitting[orders[0]]
    begun = bool(tokenizer.bos_token) and first.texts[0].startswith(tokenizer.bos_token)
    name = _name(name, questions, first.kind)
    with whole_folder(folder) as (part, folder):
        lines = commands(folder, name, first.kind, arguments, begun)
        task = HarnessTask(folder, name, first.kind, orders, len(questions), lines)
        for file, text in _files(task, questions, asked, turns, arguments).items():
            (part / file).write_text(text, encoding="utf-8")
    return task


def _files(
    task: HarnessTask,
    questions: Sequence[BinaryQuestion],
    asked: Mapping[Order, PromptBatch],
    turns: Mapping[Order, UserTurns],
    arguments: Mapping[str, bool],
) -> dict[str, str]:
    """Every file's text, by its name."""
    name, style = task.name, asked[task.orders[0]].style
    inspect = (ASSETS / "inspect_task.py").read_text(encoding="utf-8")
    files = {
        f"{name}.yaml": group_yaml(name, task.orders),
        "utils.py": (ASSETS / "utils.py").read_text(encoding="utf-8"),
        f"{name}.py": inspect.replace('NAME = "task"', f"NAME = {json.dumps(name)}"),
        f"{name}.json": json_text(_setting(task, questions, style, turns, arguments)),
        "README.md": readme(task.name, task.kind, task.n_questions, task.orders, task.commands),
    }
    for order in task.orders:
        files[f"{name}_{order}.yaml"] = task_yaml(name, order, style, turns[order])
        files[rows_file(name, order)] = "".join(_rows(questions, style, turns[order]))
    return files


def _setting(
    task: HarnessTask,
    questions: Sequence[BinaryQuestion],
    style: PromptStyle,
    turns: Mapping[Order, UserTurns],
    arguments: Mapping[str, bool],
) -> dict[str, Any]:
    """What the tasks are made of, for programs."""
    return {
        "kind": "harness_task",
        "name": task.name,
        "prompt": task.kind,
        "orders": task.orders,
        "choices": [style.yes, style.no],
        "lead": turns[task.orders[0]].lead,
        "before": {order: said.messages("")[:-1] for order, said in turns.items()},
        "template_arguments": dict(arguments),
        "data": getattr(questions, "name", ""),
        "n_questions": task.n_questions,
        "template": style.to_dict(),
        "versions": library_versions(),
    }


def _rows(questions: Sequence[BinaryQuestion], style: PromptStyle, turns: UserTurns) -> Iterator[str]:
    """One line of JSON a question; `target` counts the candidates from 0, the yes one first."""
    system = {} if turns.system is None else {"system": turns.system}
    for q, text in zip(questions, turns.texts, strict=True):
        row = {"id": q.id, "group": q.group, "pair": q.pair, "text": text, **system}
        yield json.dumps(row | {"target": 0 if style.right_word(bool(q.label)) else 1}, ensure_ascii=False) + "\n"


def _name(name: str | None, questions: Sequence[BinaryQuestion], kind: str) -> str:
    """The group's name, which stands in file names and on command lines."""
    if name is None:
        data = questions.name if isinstance(questions, QuestionList) else "questions"
        short = re.sub(r"[^A-Za-z0-9]+", "_", Path(data).name.removeprefix("builtin:")).strip("_").lower()
        return f"nasa_{short or 'questions'}_{kind}"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ResultError(f"the task's name {name!r} isn't one; give letters, digits, - and _, a letter first")
    if name in ("utils", "README"):
        raise ResultError(f"the task's name {name!r} is that of a file beside it; give another")
    return name
