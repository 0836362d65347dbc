"""What a served model decides: the log-probabilities of both candidates that came back."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from ..bootstrap import DRAWS
from ..errors import PromptError, RequestRefusedError, ServerError, warn_user
from ..prompts import Orders, PromptStyle, ServedPrompt, served_prompts
from ..questions import resolve_questions
from ..run import RunInfo
from ..served import Asking, ServedAnswer, ServedModel
from ..session import orders_of
from .report import BinaryReport

# More tokens are asked for, ten times as many each time, up to so many.
MOST = 2000
# Below the least that came back, for a candidate that didn't: the answer is the other one, and never a tie.
BELOW = 1e-6
# What stands before a word: nothing, or the space that its token begins with.
LEADS = ("", " ")


@dataclass(frozen=True)
class Words:
    """The texts of the tokens that answers begin with, when a space stands before them or doesn't.

    Args:
        style: with the candidates.
        lead: "" or a space.
    """

    style: PromptStyle
    lead: str = ""

    @property
    def yes(self) -> str:
        """The yes candidate's token."""
        return self.lead + self.style.yes

    @property
    def no(self) -> str:
        """The no candidate's token."""
        return self.lead + self.style.no

    @property
    def unsure(self) -> str | None:
        """The first word of the third candidate, where there is one."""
        return None if self.style.unsure is None else self.lead + self.style.unsure.split()[0]

    @property
    def yes_variants(self) -> set[str]:
        """The yes candidate in any case, with a space before it and without; what reads as the other one left out."""
        return _variants(self.style.yes) - _variants(self.style.no)

    @property
    def no_variants(self) -> set[str]:
        """The same of the no candidate."""
        return _variants(self.style.no) - _variants(self.style.yes)

    @property
    def variants(self) -> set[str]:
        """All of them, and the third candidate's."""
        unsure = set() if self.style.unsure is None else _variants(self.style.unsure.split()[0])
        return self.yes_variants | self.no_variants | unsure

    def in_both(self, answer: ServedAnswer) -> bool:
        """Whether both candidates came back."""
        return answer.logprob(self.yes) is not None and answer.logprob(self.no) is not None


@dataclass(frozen=True)
class ServedDecisions:
    """The report of a served model, and the ids of the tokens that answers begin with, where the server gives them."""

    report: BinaryReport
    yes_variants: tuple[int, ...]
    no_variants: tuple[int, ...]
    style: PromptStyle
    shared: tuple[int, ...] = ()


def decide_served(
    served: ServedModel,
    data: Any,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> ServedDecisions:
    """Asks a served model every question, one token each, and compares what it says of No and Yes.

    d is the difference of two log-probabilities, which is that of the logits. A candidate that isn't among the tokens
    that came back, however many were asked for, counts as just below the least of them: the decision is certain then,
    its size is a bound, and the run's notes count such prompts. The answer mass is of what came back, too.

    Args:
        served: what `load_server` gave.
        data, order, style, limit, seed, draws, progress: as for `decide`, but prompts that are built already. A prompt
            of the kind "auto" is a chat.

    Raises:
        ServerError: as `Asking.first_tokens`, or where neither candidate came back.
        PromptError: as `served_prompts`.

    Source: ours.
    """
    start, style = time.perf_counter(), style or PromptStyle()
    questions = resolve_questions(data, limit, seed)
    orders = orders_of(order)
    # All of them before the first request, so that a question that can't be asked shows at the start.
    prompts = [prompt for each in orders for prompt in served_prompts(style, each, questions)]
    if not prompts:
        raise PromptError("there is no question to ask; give some")
    with served.asking() as asking:
        answers = _ask_all(asking, prompts, style, progress)
    words = _words(answers, prompts[0], style)
    d, n_bounds = _differences(answers, prompts, words, served.url)
    mass = np.array([_mass(answer, words.variants) for answer in answers])
    notes = _notes(asking, answers, n_bounds, prompts[0], words)
    run = RunInfo(
        model=served.name,
        data=questions.name,
        n_questions=len(questions),
        orders=orders,
        template={**style.to_dict(), "kind": prompts[0].kind},
        seed=seed,
        draws=draws,
        engine="served",
        seconds=round(time.perf_counter() - start, 3),
        notes=(*questions.notes, *notes),
    )
    report = BinaryReport(
        d, mass, tuple(p.order for p in prompts), tuple(p.question for p in prompts), run, _unsure(answers, words)
    )
    ids = [set().union(*(a.ids(sorted(texts)) for a in answers)) for texts in (words.yes_variants, words.no_variants)]
    return ServedDecisions(report, tuple(sorted(ids[0])), tuple(sorted(ids[1])), style)


def _ask_all(asking: Asking, prompts: Sequence[ServedPrompt], style: PromptStyle, progress: bool) -> list[ServedAnswer]:
    bare, spaced = (Words(style, lead) for lead in LEADS)

    def enough(answer: ServedAnswer) -> bool:
        return spaced.in_both(answer) or (prompts[0].kind == "chat" and bare.in_both(answer))

    with tqdm(prompts, desc="asking", unit="prompt", disable=not progress) as bar:
        return [_ask(asking, prompt, enough) for prompt in bar]


def _ask(asking: Asking, prompt: ServedPrompt, enough: Callable[[ServedAnswer], bool]) -> ServedAnswer:
    """The answer with as many tokens as are needed for both candidates, or as the server gives."""
    top = asking.served.top
    answer = asking.first_tokens(prompt, top)
    while not enough(answer) and top < MOST:
        top = min(top * 10, MOST)
        if asking.largest is not None and top > asking.largest:
            break
        try:
            more = asking.first_tokens(prompt, top)
        except RequestRefusedError:
            asking.largest = top - 1
            break
        # A server may give fewer than it is asked for, and say nothing.
        if len(more.tokens) <= len(answer.tokens):
            asking.largest = top - 1
            break
        answer = more
    return answer


def _words(answers: Sequence[ServedAnswer], prompt: ServedPrompt, style: PromptStyle) -> Words:
    """With a space before them or without, the same in the whole run.

    A plain prompt ends in "Answer:", after which words begin with their space, as `build_prompts` takes them. What a
    template ends in the server doesn't say: there the spelling counts that the model gives more probability to.
    """
    bare, spaced = (Words(style, lead) for lead in LEADS)
    likely = [sum(_mass(answer, {words.yes, words.no}) for answer in answers) for words in (bare, spaced)]
    if prompt.kind == "plain":
        # Some servers show tokens without their space.
        return spaced if likely[1] > 0 else bare
    return bare if likely[0] >= likely[1] else spaced


def _mass(answer: ServedAnswer, texts: set[str]) -> float:
    return math.fsum(math.exp(token.logprob) for token in answer.tokens if token.text in texts)


def _differences(
    answers: Sequence[ServedAnswer], prompts: Sequence[ServedPrompt], words: Words, url: str
) -> tuple[Float[np.ndarray, " decision"], int]:
    """d of each answer, and for how many a candidate was missing."""
    d, lost, n_bounds = [], [], 0
    for answer, prompt in zip(answers, prompts, strict=True):
        yes, no = answer.logprob(words.yes), answer.logprob(words.no)
        if yes is None and no is None:
            lost.append(prompt.question.id)
            continue
        n_bounds += yes is None or no is None
        below = answer.floor - BELOW
        d.append((below if no is None else no) - (below if yes is None else yes))
    if lost:
        raise ServerError(
            f"{url}: {len(lost)} of {len(prompts)} prompts (first: question {lost[0]!r}) have neither candidate among "
            f"the tokens that came back ({words.style.yes!r}, {words.style.no!r}); ask for more (top=, --top), for "
            f"candidates of one token, in plain text (--prompt plain), or for answers in words (--by generation)"
        )
    return np.array(d, dtype=np.float64), n_bounds


def _unsure(answers: Sequence[ServedAnswer], words: Words) -> np.ndarray | None:
    """For which answers the third candidate is the likeliest; None where there is none."""
    if words.unsure is None:
        return None
    rows = [[answer.logprob(text) for text in (words.unsure, words.yes, words.no)] for answer in answers]
    numbers = [[-math.inf if value is None else value for value in row] for row in rows]
    return np.array([third > max(yes, no) for third, yes, no in numbers])


def _notes(
    asking: Asking, answers: Sequence[ServedAnswer], n_bounds: int, prompt: ServedPrompt, words: Words
) -> tuple[str, ...]:
    """What a reader must know of how the answers came: what is missing, what was kept, who wrote the template."""
    counts = sorted(len(answer.tokens) for answer in answers)
    unseen = float(np.mean([answer.unseen for answer in answers]))
    notes = [
        f"served: {prompt.kind} endpoint, {counts[0]} to {counts[-1]} likeliest tokens a prompt; the server writes the "
        f"template and tokenizes, and its weights are not known",
        f"the answer mass is of what came back, and misses at most {unseen:.2g} (mean probability of all other tokens)",
    ]
    if n_bounds:
        notes.append(
            f"{n_bounds} of {len(answers)} decisions have one candidate alone among the tokens that came back: their d "
            f"is a bound on its size"
        )
        warn_user(notes[-1])
    if words.style.kind == "auto":
        notes.append(
            "asked as a chat, as a server doesn't say whether its model has a template; kind='plain' asks text"
        )
    if asking.n_kept:
        notes.append(f"{asking.n_kept} answers were kept from an earlier run")
    return tuple(notes)


def _variants(word: str) -> set[str]:
    """Texts of tokens that say the same word in another case or behind a space."""
    return {lead + form for lead in LEADS for form in (word, word.lower(), word.upper(), word.capitalize())}
