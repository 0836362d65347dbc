"""The measures of binary decisions, as pure functions of logit differences; vectorized over bootstrap draws."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

N_BINS = 15


@dataclass(frozen=True)
class Measures:
    """Measures of a set of decisions; NaN where one is undefined, as all that need labels are without them.

    A decision is Yes where d = logit(No) - logit(Yes) is below 0; a tie is No.

    Args:
        accuracy, precision, recall, f1: of the answer Yes.
        gap: precision - recall (the paper's measure); undefined without a single Yes.
        imbalance: (FN - FP) / n = rate of true yes - rate of answered yes; above 0, No is said too often.
        yes_rate, base_rate: how often Yes is answered, and how often it is right.
        auc: how well d sorts right from wrong, whatever the threshold.
        oracle_accuracy: of the best single threshold on d, on these very data.
        ece: expected calibration error of P(yes) = sigmoid(-d), 15 equal bins.
        mean_logit_difference: mean of d.
        answer_mass: mean of P(Yes) + P(No) over the whole vocabulary.
        false_yes_rate: how often Yes is answered where No is right.

    Source: precision, recall, gap, F1 and accuracy as in the paper; the others are ours.
    """

    accuracy: float
    precision: float
    recall: float
    gap: float
    imbalance: float
    f1: float
    yes_rate: float
    base_rate: float
    auc: float
    oracle_accuracy: float
    ece: float
    mean_logit_difference: float
    answer_mass: float
    false_yes_rate: float

    @staticmethod
    def names() -> list[str]:
        """The measures' names in their order."""
        return [f.name for f in fields(Measures)]

    def numbers(self) -> dict[str, float]:
        """Each measure by its name."""
        return {name: getattr(self, name) for name in self.names()}


def measure(
    d: Float[np.ndarray, " item"], label: Bool[np.ndarray, " item"] | None, answer_mass: Float[np.ndarray, " item"]
) -> Measures:
    """All measures of one set of decisions.

    Args:
        d: logit(No) - logit(Yes).
        label: True where yes is right; None where nobody knows.
        answer_mass: P(Yes) + P(No).
    """
    values = measure_draws(d, label, answer_mass, np.ones((1, len(d)), dtype=np.float32))
    return Measures(**{name: float(value[0]) for name, value in values.items()})


def measure_draws(
    d: Float[np.ndarray, " item"],
    label: Bool[np.ndarray, " item"] | None,
    answer_mass: Float[np.ndarray, " item"],
    weights: Float[np.ndarray, "draw item"],
) -> dict[str, Float[np.ndarray, " draw"]]:
    """All measures for each row of weights at once, which libraries compute one sample at a time.

    Args:
        d, label, answer_mass: as for `measure`.
        weights: how often each item counts in each draw.
    """
    w, d = weights.astype(np.float64), d.astype(np.float64)
    yes = d < 0
    with np.errstate(invalid="ignore", divide="ignore"):
        n = w.sum(1)
        answers = {
            "yes_rate": w @ yes / n,
            "mean_logit_difference": w @ d / n,
            "answer_mass": w @ answer_mass.astype(np.float64) / n,
        }
        if label is None:
            return {name: answers.get(name, np.full(len(w), np.nan)) for name in Measures.names()}
        tp, fp, fn = w @ (yes & label), w @ (yes & ~label), w @ (~yes & label)
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        return {
            "accuracy": w @ (yes == label) / n,
            "precision": precision,
            "recall": recall,
            "gap": precision - recall,
            "imbalance": (fn - fp) / n,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "base_rate": (tp + fn) / n,
            "auc": _auc(d, label, w),
            "oracle_accuracy": _oracle_accuracy(d, label, w) / n,
            "ece": _calibration_error(expit(-d), label, w) / n,
            "false_yes_rate": fp / (w @ ~label),
            **answers,
        }


def _auc(d, label, w) -> Float[np.ndarray, " draw"]:
    """P(d of a true yes < d of a true no), ties half: the rank-sum statistic with weights."""
    order, groups = _tie_groups(d)
    yes = np.add.reduceat(w[:, order] * label[order], groups, axis=1)
    no = np.add.reduceat(w[:, order] * ~label[order], groups, axis=1)
    no_above = no.sum(1, keepdims=True) - np.cumsum(no, axis=1)
    return (yes * (no_above + no / 2)).sum(1) / (yes.sum(1) * no.sum(1))


def _oracle_accuracy(d, label, w) -> Float[np.ndarray, " draw"]:
    """The most weight that any rule "Yes below a threshold" gets right."""
    order, groups = _tie_groups(d)
    gain = np.add.reduceat(w[:, order] * np.where(label[order], 1.0, -1.0), groups, axis=1)
    # All No gets the noes right; moving the threshold up past a value turns its items to Yes.
    return w @ ~label + np.maximum(np.cumsum(gain, axis=1).max(1), 0.0)


def _tie_groups(d):
    """Sorting order, and where each run of equal values starts in it: a threshold can't part equals."""
    order = np.argsort(d, kind="stable")
    return order, np.flatnonzero(np.r_[True, np.diff(d[order]) > 0])


def _calibration_error(p, label, w) -> Float[np.ndarray, " draw"]:
    bins = np.minimum((p * N_BINS).astype(int), N_BINS - 1)
    in_bin = bins[:, None] == np.arange(N_BINS)
    return np.abs((w * (p - label)) @ in_bin).sum(1)


def recovered(accuracy: float, base: Measures) -> float:
    """The share of the accuracy lost to the threshold that is back: 1 at the base model's oracle accuracy.

    NaN where the base model's oracle accuracy is less than 0.05 above its accuracy: nothing to recover. Source: ours.
    """
    room = base.oracle_accuracy - base.accuracy
    return (accuracy - base.accuracy) / room if room >= 0.05 else float("nan")
