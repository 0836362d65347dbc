"""Short questions asked openly: greedily once, and drawn several times."""

import re
import time
from collections.abc import Sequence
from typing import Any

from ..errors import QuestionError
from ..generating import generate
from ..models import Model, as_model
from ..prompts.open import open_prompts
from ..questions.short import ShortQuestion
from ..run import RunInfo
from ..torch_defaults import under_torch_defaults
from .value import Knowledge, Known

ASK = "{question}\n\nAnswer with the final answer alone, in a few words."
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")


@under_torch_defaults
def ask_openly(
    model: Any,
    questions: Sequence[ShortQuestion],
    *,
    samples: int = 4,
    temperature: float = 0.7,
    max_new_tokens: int = 24,
    context: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Knowledge:
    """Asks each short question without candidates, and sorts questions by what the answers say of the knowledge.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        questions: as `load_short` gives them.
        samples: how often an answer is drawn besides the greedy one.
        temperature: of the draws.
        max_new_tokens: of an answer.
        context: ask with the question's context, where it has one.
        seed: of the draws.
        progress: a bar for each round.

    Returns:
        The answers, compared with the right one by the data set's own comparison.

    Raises:
        QuestionError: no questions, or no whole number of samples.

    Source: the three subsets are the follow-up's (arXiv 2511.10881); how they are told apart here is ours.
    """
    start, model = time.perf_counter(), as_model(model)
    if not questions or samples < 0:
        raise QuestionError(
            f"{len(questions)} questions can't be asked with {samples} samples; give one or more, from 0"
        )
    rows = open_prompts(model, [_text(q, context) for q in questions], [q.id for q in questions], max_new_tokens)
    rounds = [_answers(model, rows, max_new_tokens, 0.0, seed, "asking" if progress else None)]
    for number in range(samples):
        bar = f"drawing {number + 1}/{samples}" if progress else None
        rounds.append(_answers(model, rows, max_new_tokens, temperature, seed + number, bar))
    known = tuple(_known(q, answers) for q, answers in zip(questions, zip(*rounds, strict=True), strict=True))
    return Knowledge(known, _run(model, questions, start, seed, samples, temperature))


def says(question: ShortQuestion, text: str) -> bool:
    """Whether an answer in the model's words says the right one: the whole of it, or the last number in it."""
    text = text.strip().strip(".").strip()
    numbers = _NUMBER.findall(text)
    return bool(text) and (question.same(text) or bool(numbers and question.same(numbers[-1])))


def _known(question: ShortQuestion, answers: Sequence[str]) -> Known:
    greedy, *drawn = answers
    return Known(
        question.id,
        question.answer,
        greedy,
        says(question, greedy),
        tuple(drawn),
        tuple(says(question, text) for text in drawn),
        sum(_plain(text) == _plain(greedy) for text in drawn),
    )


def _plain(text: str) -> str:
    """What makes two answers the same: their last number, or their words."""
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else " ".join(re.findall(r"\w+", text.casefold()))


def _text(question: ShortQuestion, context: bool) -> str:
    head = f"{question.context}\n\n" if context and question.context else ""
    return head + ASK.format(question=question.question)


def _answers(model: Model, rows: list[list[int]], n: int, temperature: float, seed: int, bar: str | None) -> list[str]:
    """The first line of each answer."""
    written = generate(model, rows, n, padded=not model.handed_hooked, temperature=temperature, seed=seed, bar=bar)
    texts = [model.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in written]
    return [text.splitlines()[0].strip() if text else "" for text in texts]


def _run(
    model: Model, questions: Sequence[ShortQuestion], start: float, seed: int, samples: int, temperature: float
) -> RunInfo:
    return RunInfo(
        model=model.name,
        model_hash=model.weights_hash(),
        data=f"{len(questions)} short questions",
        n_questions=len(questions),
        orders=(),
        seed=seed,
        engine="generation",
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=round(time.perf_counter() - start, 3),
        notes=(f"{samples} answers drawn at temperature {temperature}",),
    )
