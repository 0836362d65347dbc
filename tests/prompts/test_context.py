"""A question's context stands before it in the prompt, and nothing changes for questions without one."""

from dataclasses import replace

import pytest

from nasa_interp import BinaryQuestion, PromptStyle, build_prompts
from nasa_interp.errors import PromptError, QuestionError
from nasa_interp.prompts.pairs import instruction_pairs
from nasa_interp.questions import QuestionList, check_apart

CONTEXT = "Tom has a red ball. No, two."


def told(question, context=CONTEXT):
    return replace(question, context=context)


def test_the_context_stands_between_instruction_and_question(tiny, questions):
    (plain,), (with_context,) = (build_prompts(tiny, [q]).texts for q in (questions[0], told(questions[0])))
    line = f"Question: {questions[0].question}"
    assert with_context == plain.replace(line, f"Context: {CONTEXT}\n\n{line}")


def test_positions_count_from_the_instruction_to_the_end_of_the_question(tiny, questions):
    plain, with_context = build_prompts(tiny, questions[:1]), build_prompts(tiny, [told(questions[0])])
    more = int(with_context.last_pos[0] - plain.last_pos[0])
    assert more > 0
    for name in ("yes_span", "no_span", "instruction_start", "first_query"):
        assert getattr(plain, name).tolist() == getattr(with_context, name).tolist()
    assert int(with_context.question_end[0] - plain.question_end[0]) == more


def test_marks_in_a_context_or_question_are_text(tiny):
    question = BinaryQuestion("Is {context} here? {question}", True, "a", context="A {question} and {context}.")
    (text,) = build_prompts(tiny, [question]).texts
    assert "Context: A {question} and {context}.\n\nQuestion: Is {context} here? {question}" in text


def test_a_control_token_in_a_context_is_text(tiny, questions):
    control = tiny.tokenizer.eos_token
    with pytest.warns(UserWarning, match="hold.* control tokens"):
        prompts = build_prompts(tiny, [told(questions[0], f"It said {control} twice.")])
    plain = build_prompts(tiny, [told(questions[0])])
    index = tiny.tokenizer.eos_token_id
    assert (prompts.tokens == index).sum() == (plain.tokens == index).sum()


def test_another_instruction_keeps_the_context(tiny, questions):
    pairs = instruction_pairs(tiny, [told(q) for q in questions], kind="order")
    assert all(CONTEXT in text for text in pairs.clean.texts + pairs.corrupted.texts)


def test_the_line_of_the_context_is_the_styles(tiny, questions):
    style = PromptStyle(context="Read this: {context}")
    (text,) = build_prompts(tiny, [told(questions[0])], style=style).texts
    assert f"\n\nRead this: {CONTEXT}\n\nQuestion:" in text
    assert style.to_dict()["context"] == "Read this: {context}"
    assert "context" not in PromptStyle().to_dict()
    with pytest.raises(PromptError, match=r"has no \{context\} in it"):
        PromptStyle(context="Context")


def test_a_context_is_a_text_or_none():
    with pytest.raises(QuestionError, match="the context is empty"):
        BinaryQuestion("Is it?", True, "a", context=" ")
    with pytest.raises(QuestionError, match="the context holds a lone surrogate"):
        BinaryQuestion("Is it?", True, "a", context="\ud800")


def test_a_question_without_context_is_written_as_ever(questions):
    assert (
        repr(questions[2]) == "BinaryQuestion(question='Is 12 + 7 = 19?', label=True, id='c', group='sums', pair=None)"
    )
    assert repr(told(questions[2], "x")).endswith("pair=None, context='x')")


@pytest.mark.parametrize(
    ("seen", "asked", "apart"),
    [(None, None, False), ("x", None, False), (None, "x", False), ("x", "x", False), ("x", "y", True)],
)
def test_one_question_under_two_contexts_is_two(questions, seen, asked, apart):
    one, other = (QuestionList([replace(questions[2], context=c)], name) for c, name in ((seen, "a"), (asked, "b")))
    if apart:
        check_apart(one, other, "to tune on", "test on")
    else:
        with pytest.raises(QuestionError, match="is among those to tune on"):
            check_apart(one, other, "to tune on", "test on")
