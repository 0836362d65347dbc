"""Text behind a source's name that the source can't read is one clear error."""

import pytest

from nasa_interp.errors import QuestionError
from nasa_interp.questions import SOURCES, load_questions


def test_text_that_a_source_cannot_read_is_named(monkeypatch) -> None:
    monkeypatch.setitem(SOURCES, "parity", lambda upto: [int(upto)])
    with pytest.raises(QuestionError, match=r"parity:x: invalid literal.*correct what stands behind parity:"):
        load_questions("parity:x")
