"""Chain of thought: the model reasons in its own words, and what it wrote becomes a part of the prompt."""

from collections.abc import Sequence
from dataclasses import replace

from .errors import warn_user
from .generating import check_room, generate
from .models import Model
from .prompts import PromptBatch, build_prompts
from .questions import QuestionList

# What the note of thoughts that ended for want of room says.
CUT = "thoughts were cut at"
# The least room to reason in that is worth asking for.
LEAST = 8


def think(model: Model, prompts: PromptBatch, progress: bool = False) -> PromptBatch:
    """The same prompts with what the model thinks about each question, and the style's cue for its answer.

    The reasoning is greedy, of at most `style.think` tokens, or as many as the model's context has room for. It is cut
    where the model begins the cue itself. What was cut short, and for which reason, is counted in the notes.

    Args:
        model: any.
        prompts: of a style that lets the model think, as `build_prompts` writes them without thoughts.
        progress: a bar over prompts.

    Raises:
        PromptError: a prompt that leaves no room to think in.
    """
    style, ends = prompts.style, (prompts.last_pos + 1 - len(prompts.shared)).tolist()
    rows = [row[:end].tolist() for row, end in zip(prompts.tokens, ends, strict=True)]
    ids, cue = [q.id for q in prompts.questions], len(model.tokenizer(style.cue, add_special_tokens=False)["input_ids"])
    # Behind the thought stand the cue and the first token of the answer.
    room = _room(model, rows, cue + 1)
    check_room(model, [len(row) + cue + 1 for row in rows], ids, min(LEAST, style.think))
    allowed = style.think if room is None else min(style.think, room)
    bar = f"thinking, {prompts.order}" if progress else None
    written = generate(model, rows, allowed, padded=not model.handed_hooked, bar=bar)
    thoughts = [model.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in written]
    thoughts = [thought.partition(style.cue.strip())[0].rstrip() for thought in thoughts]
    notes = _notes([len(tokens) for tokens in written], allowed, style.think, prompts.order)
    for note in notes:
        warn_user(note)
    built = build_prompts(model, QuestionList(prompts.questions, prompts.data), prompts.order, style, thoughts)
    return replace(built, notes=(*built.notes, *notes))


def _notes(lengths: Sequence[int], allowed: int, asked: int, order: str) -> tuple[str, ...]:
    """How many thoughts ended because there was no more room."""
    cut, notes = sum(length >= allowed for length in lengths), ()
    if allowed < asked:
        notes = (f"the model's context leaves room for {allowed} of {asked} tokens to think in",)
    if cut:
        notes = (*notes, f"{cut} of {len(lengths)} {CUT} {allowed} tokens (order {order})")
    return notes


def _room(model: Model, rows: Sequence[Sequence[int]], behind: int) -> int | None:
    """How many tokens the longest prompt leaves room for, with so many behind them."""
    if model.context_length is None:
        return None
    return model.context_length - max(map(len, rows)) - behind
