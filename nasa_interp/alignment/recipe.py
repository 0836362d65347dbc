"""How to tune and what must not be lost: plain numbers, all ours, none the paper's."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import AlignmentError
from ..objectives import Answer, Objective, OwnDecisions

# What the rate is divided by where a limit was passed.
BACKING_OFF = 3


@dataclass(frozen=True)
class Recipe:
    """How heads are tuned.

    Args:
        objective: what a step pulls toward; None takes `Answer()`, or `OwnDecisions()` where there are no labels.
        prior: how often yes is expected to be right among questions without labels.
        recentre: what the model's own decisions lose their lean within, where there are no labels: "kind" takes it off
            each kind of question (group) by itself, which also sorts better than the model does, as kinds lean
            differently; "wording" takes one offset for all kinds. Yes is expected as often in each.
        projections: which of a head's slices change: letters out of "qkvo"; by default query rows and output columns.
        heads_at_once: 1 tunes heads one after another, as the paper does, each kept or rolled back by itself; more
            tunes so many together, None all of them, which is faster and lets the heads share the work.
        steps: the most steps a head (or so many heads) gets.
        check_every: steps between two checkpoints, at which the validation questions are asked; the best is kept.
        patience: how many checkpoints in a row may neither be better than the best nor have a smaller loss before
            tuning stops.
        learning_rate: of Adam, as a share of the root mean square of each slice: weights of one model are several times
            as large as another's, and a step that cures the one breaks the other.
        averaging: checkpoints look at the running mean of the weights over the steps, in which a step weighs so many
            times what the next one does; 0 takes them as the last step left them.
        keep_text: weight of the divergence from the untuned model on a passage of plain text, another one each step
            (KL in nats a token); 0 reads none. Objectives that read attention alone run no text.
        retries: how often heads are tuned anew, each time at a third of the rate, where a limit refused the best that
            was reached, and what was kept is off the target.
        questions: in a step, each asked in both candidate orders.
        probe_questions, val_questions: how many are drawn from the data to tune on and to validate on, evenly from the
            groups; None takes all.
        mixed_precision: whether steps multiply in bfloat16, while the tuned weights and all of validation stay in
            the model's own dtype; None does so for a float32 model where its device does it faster.
        bias, share: tune biases too; tune keys and values that other heads use.
    """

    objective: Objective | None = None
    prior: float = 0.5
    recentre: str = "kind"
    projections: str = "qo"
    heads_at_once: int | None = None
    steps: int = 40
    check_every: int = 8
    patience: int = 2
    learning_rate: float = 0.003
    averaging: float = 0.85
    keep_text: float = 10.0
    retries: int = 2
    questions: int = 32
    probe_questions: int | None = 192
    val_questions: int | None = 256
    mixed_precision: bool | None = None
    bias: bool = False
    share: bool = False

    def __post_init__(self):
        for name in ("heads_at_once", "steps", "check_every", "patience", "questions"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise AlignmentError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.retries < 0:
            raise AlignmentError(f"retries is {self.retries}; give 0 or more")
        if not 0 <= self.averaging < 1:
            raise AlignmentError(f"averaging is {self.averaging}; give a number from 0 to below 1")
        if not self.keep_text >= 0:
            raise AlignmentError(f"keep_text is {self.keep_text}; give a weight of 0 or more")
        if self.recentre not in ("kind", "wording"):
            raise AlignmentError(f"recentre is {self.recentre!r}; take 'kind' or 'wording'")
        if not 0 < self.prior < 1:
            raise AlignmentError(f"a prior of {self.prior} is no rate between 0 and 1; say how often yes is right")
        if not self.learning_rate > 0:
            raise AlignmentError(f"a learning rate of {self.learning_rate} tunes nothing; give one above 0")

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates that are tried in turn, until something can be kept."""
        return tuple(self.learning_rate / BACKING_OFF**n for n in range(self.retries + 1))

    def loss(self) -> Objective:
        """The objective, once it is known."""
        assert self.objective is not None
        return self.objective

    def resolved(self, labeled: bool) -> "Recipe":
        """The recipe with an objective for questions with or without labels."""
        if self.objective is not None:
            return self
        return replace(self, objective=Answer() if labeled else OwnDecisions())

    def without_labels(self) -> "Recipe":
        """The recipe for questions without labels: an objective that needs them gives way to the default one."""
        needed = self.objective is not None and "labels" in self.objective.reads
        return replace(self, objective=None) if needed else self

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the objective as its repr."""
        return {**asdict(self), "objective": repr(self.objective)}


@dataclass(frozen=True)
class Limits:
    """Where tuning stops, and what a head may cost on the validation questions and text.

    Args:
        imbalance: the target: tuning stops when it lies within this of 0 in every candidate order.
        auc: the most that the mean AUC within orders may fall below the base model's.
        answer_mass: the most that the mean answer mass may fall below the base model's.
        perplexity: the most that the perplexity on the validation text may be multiplied by.
        ranks: without labels, the least rank correlation of d with the untuned model's, in every order.
    """

    imbalance: float = 0.05
    auc: float = 0.02
    answer_mass: float = 0.1
    perplexity: float = 1.01
    ranks: float = 0.7

    def to_dict(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)
