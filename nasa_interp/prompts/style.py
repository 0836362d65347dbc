"""How a question becomes a prompt: instruction, candidates, their order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..errors import PromptError
from ..questions import BinaryQuestion

Order = Literal["yes_no", "no_yes"]

Orders = Literal["both", "yes_no", "no_yes"]

ORDERS: tuple[Order, Order] = ("yes_no", "no_yes")

CONTEXT = "Context: {context}"


@dataclass(frozen=True)
class PromptStyle:
    """How a question becomes a prompt; one value for all prompts of a run.

    Args:
        instruction: the text before the question. `{first}` and `{second}` stand for the candidates in either order;
            a text without them must name both candidates once each, and the other order swaps them. Of several texts
            each question gets one: they take turns within every group, and twins get the same.
        yes, no: the answer candidates, any two strings (source: the paper uses Yes and No).
        kind: "chat" (the tokenizer's template), "plain", or "auto": chat where there is a template.
        question: how the question is written under the instruction; `{question}` stands for it.
        context: how a question's context, where it has one, is written before that; `{context}` stands for it.
        allow_special: read control tokens in a question ("<|im_end|>") as control tokens, not as text.
        yes_means, no_means: what each candidate says, where the instruction has `{first_means}` and `{second_means}`.
        reversed: the yes candidate says no, and the no candidate yes. Decisions, labels and measures are about the
            words then; `BinaryReport.meaning_imbalance` is about what they mean.
        after: the instruction stands behind the question, the candidates with it.
        unsure: a third candidate for who doesn't know ("I don't know"), where the instruction has `{unsure}`; answers
            that take it are counted apart.
        system: a system prompt, for a chat template that takes one.
        examples: questions that are asked and answered before, each with its instruction, in the same order.
        think: the most tokens in which the model may reason before it answers (chain of thought); 0 doesn't let it.
            Interventions and tuning act behind the thoughts of the model as it was; a changed model thinks anew.
        cue: what stands between its reasoning and its answer.
    """

    instruction: str | Sequence[str] = "You are given a question and you MUST answer {first} or {second}."
    yes: str = "Yes"
    no: str = "No"
    kind: Literal["auto", "chat", "plain"] = "auto"
    question: str = "Question: {question}"
    allow_special: bool = False
    context: str = CONTEXT
    yes_means: str = ""
    no_means: str = ""
    reversed: bool = False
    after: bool = False
    unsure: str | None = None
    system: str | None = None
    examples: tuple[BinaryQuestion, ...] = ()
    think: int = 0
    cue: str = "\n\nAnswer:"

    def __post_init__(self):
        if not isinstance(self.instruction, str):
            object.__setattr__(self, "instruction", tuple(self.instruction))
        if not self.yes.strip() or not self.no.strip() or self.yes == self.no:
            raise PromptError(
                f"the candidates {self.yes!r} and {self.no!r} are not two different texts; give two, such as Yes and No"
            )
        if self.kind not in ("auto", "chat", "plain"):
            raise PromptError(f"prompt kind {self.kind!r} is unknown; use 'auto', 'chat' or 'plain'")
        if "{question}" not in self.question:
            raise PromptError(f"the question line {self.question!r} has no {{question}} in it; add it")
        if "{context}" not in self.context:
            raise PromptError(f"the context line {self.context!r} has no {{context}} in it; add it")
        if not self.instructions:
            raise PromptError("there is no instruction; give one text, or several")
        object.__setattr__(self, "examples", tuple(self.examples))
        if unlabeled := [example.id for example in self.examples if example.label is None]:
            raise PromptError(f"the example {unlabeled[0]!r} has no label, so it can't be answered; give it one")
        if self.unsure is not None and not (self.unsure.strip() and self.unsure not in (self.yes, self.no)):
            raise PromptError(f"the third candidate {self.unsure!r} is empty or one of the others; give another text")
        if self.think < 0:
            raise PromptError(f"think is {self.think}; give the most tokens to reason in, or 0")
        for text in self.instructions:
            self._check_placeholders(text)

    def _check_placeholders(self, text: str) -> None:
        """An instruction names meanings and the third candidate just where there are any."""
        parts = ("{first_means}" in text, "{second_means}" in text, bool(self.yes_means), bool(self.no_means))
        if any(parts) and not all(parts):
            raise PromptError(
                f"what the candidates mean is said by yes_means, no_means, {{first_means}} and {{second_means}} "
                f"together; give all of them or none ({text!r})"
            )
        if ("{unsure}" in text) != (self.unsure is not None):
            raise PromptError(
                f"a third candidate takes unsure= and {{unsure}} in the instruction; give both or none ({text!r})"
            )

    @property
    def instructions(self) -> tuple[str, ...]:
        """The instruction, or all of them."""
        return (self.instruction,) if isinstance(self.instruction, str) else tuple(self.instruction)

    def render_instructions(self, order: Order) -> tuple[str, ...]:
        """Each instruction with the candidates in this order; raises PromptError if one doesn't hold each once."""
        if order not in ORDERS:
            raise PromptError(f"order {order!r} is unknown; use 'yes_no', 'no_yes' or 'both'")
        return tuple(self._render(text, order) for text in self.instructions)

    def _render(self, text: str, order: Order) -> str:
        first, second = (self.yes, self.no) if order == "yes_no" else (self.no, self.yes)
        first_means, second_means = (self.yes_means, self.no_means)[:: 1 if order == "yes_no" else -1]
        text = text.replace("{first_means}", first_means).replace("{second_means}", second_means)
        text = text.replace("{unsure}", self.unsure or "")
        if "{first}" in text or "{second}" in text:
            text = text.replace("{first}", first).replace("{second}", second)
            find_candidates(text, self.yes, self.no)
            return text
        yes, no = find_candidates(text, self.yes, self.no)
        if (yes < no) == (order == "yes_no"):
            return text
        left, right = sorted((yes, no))
        return text[: left[0]] + first + text[left[1] : right[0]] + second + text[right[1] :]

    def right_word(self, label: bool) -> bool:
        """Whether the yes candidate is the right word for a question with this label."""
        return label != self.reversed

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a run's details: a text, or a list of texts where there are several instructions."""
        texts = list(self.instructions)
        values = {name: getattr(self, name) for name in ("yes", "no", "kind", "question")}
        # Named only where they were chosen, so that runs from before there was a choice compare as equal.
        others = [f for f in fields(self) if f.name not in ("instruction", *values)]
        chosen = {f.name: getattr(self, f.name) for f in others if getattr(self, f.name) != f.default}
        if self.examples:
            chosen["examples"] = [{"question": q.question, "label": q.label} for q in self.examples]
        return {"instruction": texts if len(texts) > 1 else texts[0]} | values | chosen


def find_candidates(text: str, yes: str, no: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where both candidates stand in an instruction, as character spans.

    A candidate counts as a whole word, case-sensitive; where one contains the other ("correct", "not correct"), the
    shorter one isn't looked for inside the longer.

    Raises:
        PromptError: with the text, where either isn't found exactly once.
    """
    spans: dict[str, tuple[int, int]] = {}
    taken: list[tuple[int, int]] = []
    for candidate in sorted((yes, no), key=len, reverse=True):
        pattern = re.compile(rf"(?<!\w){re.escape(candidate)}(?!\w)")
        found = [m.span() for m in pattern.finditer(text)]
        found = [span for span in found if not any(a <= span[0] and span[1] <= b for a, b in taken)]
        if len(found) != 1:
            raise PromptError(
                f"the instruction must hold {candidate!r} exactly once as a word of its own, "
                f"and holds it {len(found)} times; reword {text!r}"
            )
        spans[candidate] = found[0]
        taken.append(found[0])
    return spans[yes], spans[no]
