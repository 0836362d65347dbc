"""Saved results in sentences with numbers, for files that the report reads as plain JSON."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..heads import SIDES
from .section import readable

# The rows of a change report that go into its sentence.
PRICED = ("accuracy", "auc_within_orders", "perplexity ratio", "four-option accuracy", "generated: accuracy")
# A row of a change report about the same questions in another wording.
STYLED = re.compile(r"imbalance \((?P<style>.+), \w+\)")


def sentences_of(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences for a known kind of file; none for another, or where fields are missing."""
    say = KINDS.get(str(content.get("kind")))
    try:
        return tuple(say(content)) if say else ()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return ()


def _contest(content: Mapping[str, Any]) -> list[str]:
    sentences = []
    # Files of earlier versions knew no other bias than that toward No.
    against = f" toward {SIDES[content.get('details', {}).get('toward', 'no')]}"
    for rule, winner in content["winners"].items():
        if "k" in winner:
            sentences.append(
                f"On {rule}{against} the first {winner['k']} heads by {winner['ranking']} win: zeroed they move "
                f"logit(No) - logit(Yes) by {winner['bias']:+.2f} and AUC by {winner['auc']:+.3f}, in the candidate "
                f"order in which they do worse."
            )
        else:
            sentences.append(f"On {rule} nothing wins: {winner['reason']}")
    return sentences


def _confirmation(content: Mapping[str, Any]) -> list[str]:
    return [
        f"Order {row['order']}: zeroing {', '.join(content['heads'])} moves the mean logit difference by "
        f"{row['shift']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}], random sets by {row['random_mean']:+.2f} on "
        f"average (p = {row['p']:.2f}); AUC moves by {row['auc_change']:+.3f}."
        for row in content["table"]
    ]


def _alignment(content: Mapping[str, Any]) -> list[str]:
    rows = content["table"]
    if not rows:
        return ["Nothing was tuned: the imbalance on validation was within the target before."]
    kept = sum(bool(row["accepted"]) for row in rows)
    base, tuned = content["base"], content["tuned"]
    before, after = _worst(base["imbalance"]), _worst(tuned["imbalance"])
    together = len(str(rows[0]["head"]).split())
    summary = f"Kept {kept} of {len(rows)} heads, tuned one after another"
    if together > 1:
        summary = f"Tuned {together} heads together; " + (
            "the change was kept" if kept == len(rows) == 1 else f"kept {kept} of {len(rows)} changes"
        )
    return [
        f"{summary}. On the validation questions accuracy went from {base['accuracy']:.2f} "
        f"to {tuned['accuracy']:.2f}, and imbalance, in the candidate order in which it is larger, from "
        f"{before:+.2f} to {after:+.2f}."
    ]


def _worst(by_order: Mapping[str, float]) -> float:
    return max(by_order.values(), key=abs)


def _patch(content: Mapping[str, Any]) -> list[str]:
    sentences = []
    for order, part in content["orders"].items():
        first = sorted(part["table"], key=lambda row: -abs(row["effect"]))[:5]
        named = ", ".join(f"{row['head']} ({row['effect']:+.3f})" for row in first)
        sentences.append(
            f"Order {order}, {part['pairs']} pairs ({content['pair_kind']}): patched one at a time, the heads that "
            f"move the answer most are {named}; clean and corrupted runs differ by {part['difference']:+.3f}."
        )
    return sentences


def _change(content: Mapping[str, Any]) -> list[str]:
    rows = {row["measure"]: row for row in content["table"]}
    shown = [rows[name] for name in PRICED if name in rows]
    changes = ", ".join(
        f"{readable(row['measure'])} {row['before']:.3f} to {row['after']:.3f} "
        f"(change {row['change']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}])"
        for row in shown
    )
    return ([f"Before and after the change: {changes}."] if shown else []) + _carried(content["table"])


def _carried(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether the change holds when the same is asked in other words; measures are "imbalance (style, order)"."""
    by_style: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if named := STYLED.fullmatch(str(row["measure"])):
            by_style.setdefault(named["style"], []).append(row)
    changes = []
    for style, orders in by_style.items():
        before, after = (" / ".join(f"{row[side]:+.2f}" for row in orders) for side in ("before", "after"))
        changes.append(f"{style} {before} to {after}")
    return [f"The same asked in other words, imbalance order by order: {'; '.join(changes)}."] if changes else []


def _text(content: Mapping[str, Any]) -> list[str]:
    low, high = content["interval"]
    return [
        f"Perplexity on plain text went from {content['before']:.2f} to {content['after']:.2f}, a ratio of "
        f"{content['ratio']:.4f} [{low:.4f}, {high:.4f}]; mean KL divergence {content['kl']:.2g} nats."
    ]


def _comparison(content: Mapping[str, Any]) -> list[str]:
    return [str(sentence) for sentence in content["verdict"]]


KINDS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "ranking_contest": _contest,
    "confirmation": _confirmation,
    "alignment": _alignment,
    "patch_summary": _patch,
    "text_change": _text,
    "text_price": _text,
    "change_report": _change,
    "price": _change,
    "comparison": _comparison,
    "transfer": lambda content: [str(content["verdict"])],
    "form_matrix": lambda content: [str(sentence) for sentence in content["verdict"]],
}
