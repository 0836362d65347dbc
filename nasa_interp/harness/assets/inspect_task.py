"""The questions beside this file as two tasks of inspect_ai, one for each order of the candidates.

inspect eval THIS_FILE --model hf/NAME -M model_path=FOLDER -M do_sample=false
"""

import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.scorer import Score, mean, scorer, stderr
from inspect_ai.solver import generate

NAME = "task"
HERE = Path(__file__).parent
SETTING = json.loads((HERE / f"{NAME}.json").read_text(encoding="utf-8"))
WORDS = [SETTING["lead"] + word for word in SETTING["choices"]]
ROLES = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


def _samples(order):
    text = (HERE / f"{NAME}_{order}.jsonl").read_text(encoding="utf-8")
    before = [ROLES[said["role"]](content=said["content"]) for said in SETTING["before"][order]]
    for row in (json.loads(line) for line in text.split("\n") if line):
        asked = [*before, ChatMessageUser(content=row["text"])]
        yield Sample(input=asked, target=SETTING["choices"][row["target"]], id=row["id"], metadata={"row": row})


def _text(token):
    """What a token says: the local provider gives them as vocabularies write them, a space as a sign of its own."""
    return " " + token[1:] if token[:1] in ("\u0120", "\u2581") else token


def _difference(output):
    """d = log P(No) - log P(Yes) of the first token; infinite where one isn't among the likeliest, None for both."""
    logprobs = output.choices[0].logprobs if output.choices else None
    if logprobs is None or not logprobs.content:
        said = output.completion.strip()
        return {SETTING["choices"][0]: -float("inf"), SETTING["choices"][1]: float("inf")}.get(said)
    first = logprobs.content[0]
    seen = {_text(top.token): top.logprob for top in [first, *(first.top_logprobs or [])]}
    yes, no = (seen.get(word, -float("inf")) for word in WORDS)
    return None if yes == no == -float("inf") else no - yes


@scorer(metrics={name: [mean(), stderr()] for name in ("acc", "yes_rate", "answered")})
def decision():
    """Whether the likelier candidate is right, and whether it is Yes; `answered`: whether either was to be seen."""

    async def score(state, target):
        d = _difference(state.output)
        says_yes = d is not None and d < 0
        right = d is not None and says_yes == (target.text == SETTING["choices"][0])
        value = {"acc": float(right), "yes_rate": float(says_yes), "answered": float(d is not None)}
        finite = d if d is not None and abs(d) < float("inf") else None
        return Score(value=value, answer=state.output.completion, metadata={"logit_difference": finite})

    return score


def _task(order, top_logprobs, max_tokens):
    asked = GenerateConfig(temperature=0.0, max_tokens=max_tokens, logprobs=True, top_logprobs=top_logprobs)
    data = MemoryDataset(list(_samples(order)), name=f"{NAME}_{order}")
    return Task(dataset=data, solver=generate(), scorer=decision(), config=asked, name=f"{NAME}_{order}")


@task
def yes_no(top_logprobs: int = 20, max_tokens: int = 1):
    """The yes candidate stands first in the instruction."""
    return _task("yes_no", top_logprobs, max_tokens)


@task
def no_yes(top_logprobs: int = 20, max_tokens: int = 1):
    """The no candidate stands first in the instruction."""
    return _task("no_yes", top_logprobs, max_tokens)
