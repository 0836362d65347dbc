"""Conditions: questions asked in one way, which cures are fitted on or asked in."""

from collections.abc import Collection
from dataclasses import dataclass, field

from ..errors import QuestionError
from ..prompts import PromptStyle
from ..questions import QuestionList, load_questions
from ..run import digest_of

# Half of the kinds of builtin:verify, two that the embedded model sorts and two that it doesn't.
SEEN_KINDS = ("sentiment", "same_word", "category", "sum")
UNSEEN_WORDINGS = {
    "one word": PromptStyle("Read what follows and decide. Reply with one word, {first} or {second}."),
    "decide": PromptStyle("Decide whether the following is right and say only {first} or {second}."),
    "short": PromptStyle("Answer with {first} or {second}.", question="{question}"),
}


@dataclass(frozen=True)
class Condition:
    """Questions asked in one way.

    Args:
        name: in tables and folders.
        questions: to fit on, or to ask.
        style: wording and candidates.
        val: where something is fitted, other questions that decide what is kept.
    """

    name: str
    questions: QuestionList
    style: PromptStyle = field(default_factory=PromptStyle)
    val: QuestionList | None = None

    @property
    def digest(self) -> str:
        """A short hash of the questions and the way they are asked, whatever the name."""
        return digest_of([*self.questions, self.style.to_dict(), *(self.val or ())])

    @property
    def held_out(self) -> QuestionList:
        """The validation questions; raises QuestionError where there are none."""
        if self.val is None:
            raise QuestionError(f"nothing can be fitted on {self.name!r} without questions to validate on; give val=")
        return self.val


def builtin_conditions(limit: int | None = None, seed: int = 0) -> tuple[list[Condition], list[Condition]]:
    """What `nasa-interp transfer` fits on and asks by default, of `builtin:verify`: #probe and #val, and #test.

    Fitted on: half of the kinds of questions; all kinds; all kinds between True and False. Asked: the same kinds; the
    others; three wordings that nothing was fitted on; other candidates.

    Args:
        limit: so many test questions a condition.
        seed: of that draw.
    """
    true_false = PromptStyle(yes="True", no="False")
    probe, val, test = (load_questions(f"builtin:verify#{split}") for split in ("probe", "val", "test"))
    few = load_questions("builtin:verify#test", limit, seed)
    other = {group for group in (q.group for q in test)} - set(SEEN_KINDS)
    fitted = [
        Condition("four kinds", _of_kinds(probe, SEEN_KINDS), val=_of_kinds(val, SEEN_KINDS)),
        Condition("all kinds", probe, val=val),
        Condition("True/False", probe, true_false, val),
    ]
    asked = [
        Condition("the same kinds", _limited(_of_kinds(test, SEEN_KINDS), limit, seed)),
        Condition("other kinds", _limited(_of_kinds(test, other), limit, seed)),
        *(Condition(name, few, style) for name, style in UNSEEN_WORDINGS.items()),
        Condition("True/False", few, true_false),
    ]
    return fitted, asked


def _of_kinds(questions: QuestionList, kinds: Collection[str]) -> QuestionList:
    kept = [q for q in questions if q.group in kinds]
    return QuestionList(kept, f"{questions.name} ({', '.join(dict.fromkeys(q.group for q in kept))})")


def _limited(questions: QuestionList, limit: int | None, seed: int) -> QuestionList:
    from ..questions import sample_questions

    return questions if limit is None else QuestionList(sample_questions(questions, limit, seed), questions.name)
