"""What a served model says in its own words, with a calibration's bias on its one token where there is one."""

from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from ..prompts import Order, Orders, PromptStyle, ServedPrompt, served_prompts
from ..questions import resolve_questions
from ..run import RunInfo
from ..served import ServedModel
from ..session import orders_of


def served_texts(
    served: ServedModel,
    data: Any,
    order: Orders,
    style: PromptStyle,
    *,
    max_new_tokens: int,
    calibration: Any = None,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> tuple[list[ServedPrompt], list[str]]:
    """The prompts and the answer to each, greedily; arguments as for `decide_by_generation`.

    Under a calibration the answer is one token: a server biases every position, and the offset is for the first.

    Raises:
        ServerError: as `Asking.text`. CalibrationError: one for another model or wording, or without ids of tokens.
    """
    questions = resolve_questions(data, limit, seed)
    orders = orders_of(order)
    prompts = [prompt for each in orders for prompt in served_prompts(style, each, questions)]
    bias = _bias(calibration, served, prompts, orders, style)
    length = max_new_tokens if calibration is None else 1
    with served.asking() as asking, tqdm(prompts, desc="asking", unit="prompt", disable=not progress) as bar:
        return prompts, [asking.text(prompt, length, bias.get(prompt.order)) for prompt in bar]


def _bias(
    calibration: Any,
    served: ServedModel,
    prompts: Sequence[ServedPrompt],
    orders: tuple[Order, ...],
    style: PromptStyle,
) -> dict[Order, dict[int, float]]:
    """What to add to logits in each order; nothing without a calibration."""
    if calibration is None:
        return {}
    template = {**style.to_dict(), "kind": prompts[0].kind}
    calibration.check(RunInfo(served.name, "", len(prompts), orders, template=template), orders)
    return {order: calibration.logit_bias(order) for order in orders}
