"""What other programs can't ask as we do: refused, each with its reason."""

from collections.abc import Sequence

from ..errors import PromptError
from ..prompts import PromptStyle
from ..questions import BinaryQuestion


def check_style(style: PromptStyle) -> None:
    """Raises PromptError for a form that compares more, or asks longer, than two words right behind a prompt."""
    if style.think:
        raise PromptError(
            "lm-evaluation-harness compares answers right behind the prompt, so the model can't think before it "
            "answers there; take a form without think"
        )
    if style.unsure is not None:
        raise PromptError(
            f"lm-evaluation-harness counts each answer as right or wrong, so the third candidate {style.unsure!r} "
            f"can't be counted apart there; take a form with two candidates"
        )


def check_labels(questions: Sequence[BinaryQuestion]) -> None:
    """Raises PromptError where a question has no label."""
    if unlabeled := [q.id for q in questions if q.label is None]:
        raise PromptError(
            f"question {unlabeled[0]!r} has no label, and lm-evaluation-harness counts right answers; give it one, "
            f"or leave it out"
        )
