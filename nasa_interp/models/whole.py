"""Checks that all of a model's weights came from its files: transformers draws missing ones at random."""

import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from ..errors import ModelError, warn_user

# The most names in a message.
NAMED = 3

SAVE_AGAIN = (
    "fetch the files again, or save the whole causal language model again with save_pretrained; config.json must be "
    "the one that was saved with them"
)


def check_whole(name: str, info: dict[str, Any], remedy: str = SAVE_AGAIN) -> None:
    """Refuses a model whose files lack weights or hold them in a different shape.

    Args:
        name: what the user called the model.
        info: transformers' report on the loading: `from_pretrained` with `output_loading_info=True` and
            `ignore_mismatched_sizes=True`. It lists no tied weights, and none that transformers leaves out on purpose.
        remedy: what to do where the names don't show what went wrong.

    Raises:
        ModelError: naming the first weights, how many they are and what to do.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    shapes = [f"{key} {tuple(shape)} for {tuple(expected)}" for key, shape, expected in sorted(info["mismatched_keys"])]
    faults = []
    if missing:
        faults.append(f"lack {len(missing)} of its weights ({listed(missing)})")
    if shapes:
        faults.append(
            f"hold {len(shapes)} of its weights in another shape than the configuration says ({listed(shapes)})"
        )
    if faults:
        way_out = _way_out(missing, unexpected, remedy)
        raise ModelError(f"{name} is not a whole model: its files {' and '.join(faults)}; {way_out}")


def check_converted(name: str, error: Exception, remedy: str = SAVE_AGAIN) -> None:
    """Refuses a model with weights that transformers couldn't assemble, such as experts of which one is missing.

    Args:
        name: what the user called the model.
        error: what `from_pretrained` raised. transformers names these weights only in its log, so they are read from
            the traceback. Any other error passes.
        remedy: what to do.

    Raises:
        ModelError: naming the first weights, how many they are and what to do.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        faults = getattr(frame.f_locals.get("loading_info"), "conversion_errors", None)
        if faults:
            raise ModelError(
                f"{name} is not a whole model: {len(faults)} of its weights can't be put together from its files "
                f"({listed(sorted(faults))}), where tensors are missing or have other shapes; {remedy}"
            ) from error


def warn_unused(name: str, tensors: Collection[str], remedy: str) -> None:
    """Warns about tensors in a model's files that no weight of the model uses, if there are any."""
    if tensors:
        warn_user(
            f"{name}: {len(tensors)} of the tensors in its files are not used ({listed(sorted(tensors))}), so what "
            f"they do is missing; {remedy}"
        )


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _way_out(missing: Sequence[str], unexpected: Sequence[str], remedy: str) -> str:
    if any(".lora_" in key or ".base_layer." in key for key in unexpected):
        return f"the files hold a LoRA beside the weights ({listed(unexpected)}): merge_and_unload(), and save that"
    if prefix := _prefix(missing, unexpected):
        return (
            f"the files hold the same names behind {prefix!r}, as a wrapper saves them: save the model inside the "
            f"wrapper, or write the files again with key.removeprefix({prefix!r}) for every key"
        )
    instead = f"in their place the files hold {listed(unexpected)}: " if unexpected else ""
    return f"{instead}{remedy}"


def _prefix(missing: Iterable[str], unexpected: Iterable[str]) -> str | None:
    """The prefix that turns missing names into left-over ones; None where the names differ otherwise."""
    wanted = set(missing)
    prefixes = Counter(key.removesuffix(tail) for key in unexpected for tail in _tails(key) if tail in wanted)
    return prefixes.most_common(1)[0][0] if prefixes else None


def _tails(key: str) -> Iterator[str]:
    """The key without its first word, its first two words, and so on."""
    words = key.split(".")
    return (".".join(words[start:]) for start in range(1, len(words)))
