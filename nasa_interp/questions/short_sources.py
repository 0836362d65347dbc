"""Short questions by their data specification, to be asked openly."""

import random
from collections.abc import Callable

from ..errors import QuestionError
from .ar_lsat import ar_lsat_rows
from .gsm8k import gsm8k_rows
from .math_problems import math_rows
from .musique import musique_rows
from .registry import check_seed
from .short import ShortQuestion
from .short_rows import ShortRows

SHORT: dict[str, Callable[[str], ShortRows]] = {
    "gsm8k": gsm8k_rows,
    "math": math_rows,
    "musique": musique_rows,
    "ar_lsat": ar_lsat_rows,
}
"""Sources whose questions have short answers. To add one, add a line."""


def load_short(data: str, limit: int | None = None, seed: int = 0) -> list[ShortQuestion]:
    """The short questions behind the yes-no questions of this data; their ids are those questions' `pair`.

    Args:
        data: such as `gsm8k:PATH`.
        limit: so many, drawn by `seed`.
        seed: of that draw.

    Raises:
        QuestionError: a source without short answers, a file that can't be read, or a bad row.
    """
    check_seed(seed)
    source, colon, rest = data.partition(":")
    if not colon or source not in SHORT:
        raise QuestionError(f"{data}: its questions have no short answers; there are {', '.join(SHORT)}")
    try:
        questions = SHORT[source](rest).questions()
    except ValueError as error:
        raise QuestionError(f"{data}: {error}; correct what stands behind {source}:") from error
    if limit is None or limit >= len(questions):
        return questions
    return [questions[i] for i in sorted(random.Random(seed).sample(range(len(questions)), limit))]
