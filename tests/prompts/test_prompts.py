"""Prompts: candidates found exactly, one BOS, both orders, templates that behave badly."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import QUESTIONS, tiny_model, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

import nasa_interp as ni
from nasa_interp import BinaryQuestion, PromptStyle, build_prompts
from nasa_interp.errors import PromptError
from nasa_interp.prompts import find_candidates

TOKENIZER = tiny_tokenizer()
PLAIN = tiny_tokenizer(chat=False)
ONE = [BinaryQuestion("Is it None, No or Yes?", True, "q")]


def texts(tokenizer, prompts, row=0):
    """What the spans, the first query and the last position decode to."""
    tokens = prompts.tokens[row]
    spans = [tokenizer.decode(tokens[a:b]) for a, b in (prompts.yes_span[row].tolist(), prompts.no_span[row].tolist())]
    first, last = int(prompts.first_query[row]), int(prompts.last_pos[row])
    return *(s.strip() for s in spans), tokenizer.decode(tokens[first : last + 1])


@pytest.mark.parametrize("order", ["yes_no", "no_yes"])
@pytest.mark.parametrize("tokenizer", [TOKENIZER, PLAIN], ids=["chat", "plain"])
def test_spans_decode_to_the_candidates_of_the_instruction(tokenizer, order):
    style = PromptStyle(kind="chat" if tokenizer is TOKENIZER else "plain")
    prompts = build_prompts(tokenizer, ONE, order, style)
    yes, no, rest = texts(tokenizer, prompts)
    assert (yes, no) == ("Yes", "No")
    assert (prompts.yes_span[0, 0] < prompts.no_span[0, 0]) == (order == "yes_no")
    assert rest.startswith("\n\nQuestion: Is it None")
    assert rest.endswith("assistant\n" if tokenizer is TOKENIZER else "Answer:")


@pytest.mark.parametrize("tokenizer", [TOKENIZER, PLAIN], ids=["chat", "plain"])
def test_instruction_and_question_begin_and_end_where_their_text_does(tokenizer):
    style = PromptStyle(kind="chat" if tokenizer is TOKENIZER else "plain", question="Question: {question} Say it.")
    prompts = build_prompts(tokenizer, [*ONE, BinaryQuestion("Short?", False, "s")], "yes_no", style).select([1, 0])
    for row, asked in enumerate(("Short?", ONE[0].question)):
        ends = [
            getattr(prompts, name)[row] for name in ("instruction_start", "first_query", "question_end", "last_pos")
        ]
        start, first, end, last = map(int, ends)
        parts = [prompts.tokens[row, a:b] for a, b in ((0, start), (start, first), (first, end), (end, last + 1))]
        head, instruction, question, tail = (tokenizer.decode(part) for part in parts)
        assert instruction == "You are given a question and you MUST answer Yes or No."
        assert question == f"\n\nQuestion: {asked} Say it."
        chat = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
        assert (head, tail) == (chat if tokenizer is TOKENIZER else ("", "\nAnswer:"))


@pytest.mark.parametrize(
    ("yes", "no"), [("True", "False"), ("correct", "incorrect"), ("it is right", "it is wrong"), ("ja", "nein")]
)
def test_other_candidates_of_any_length(yes, no):
    prompts = build_prompts(TOKENIZER, ONE, "no_yes", PromptStyle(yes=yes, no=no))
    assert texts(TOKENIZER, prompts)[:2] == (yes, no)
    assert prompts.yes_token != prompts.no_token


def test_shared_leading_tokens_are_appended_to_the_prompt():
    style = PromptStyle(yes="it is right", no="it is wrong", kind="plain")
    plain = build_prompts(PLAIN, ONE, "yes_no", PromptStyle(kind="plain"))
    prompts = build_prompts(PLAIN, ONE, "yes_no", style)
    assert texts(PLAIN, prompts)[2].endswith("Answer: it is")
    assert PLAIN.decode([prompts.yes_token]).strip() != PLAIN.decode([prompts.no_token]).strip()
    assert texts(PLAIN, plain)[2].endswith("Answer:")


def test_answers_take_a_leading_space_only_after_a_plain_prompt():
    assert PLAIN.decode([build_prompts(PLAIN, ONE, "yes_no", PromptStyle(kind="plain")).yes_token]) == " Yes"
    chat = build_prompts(TOKENIZER, ONE, "yes_no")
    assert TOKENIZER.decode([chat.yes_token]) == "Yes"
    variants = {TOKENIZER.decode([token]) for token in chat.yes_variants}
    assert {"Yes", " Yes"} <= variants
    assert not set(chat.yes_variants) & set(chat.no_variants)


def test_own_instruction_in_both_orders():
    style = PromptStyle("Nothing but No, or Yes.")
    assert style.render_instructions("no_yes") == ("Nothing but No, or Yes.",)
    assert style.render_instructions("yes_no") == ("Nothing but Yes, or No.",)


SEVERAL = PromptStyle(("Answer {first} or {second}.", "Is it so? Reply with {first}, else {second}.", "Yes or No?"))


def several_questions() -> list[BinaryQuestion]:
    """Two groups of three pairs of twins, and unpaired questions of alternating labels."""
    pairs = [
        BinaryQuestion(f"{group} {i} {label}?", label, f"{group}{i}{label}", group, f"{group}{i}")
        for i in range(3)
        for group in ("a", "b")
        for label in (True, False)
    ]
    return pairs + [BinaryQuestion(f"c {i}?", i % 2 == 0, f"c{i}", "c") for i in range(6)]


@pytest.mark.parametrize("order", ["yes_no", "no_yes"])
def test_questions_take_turns_in_several_instructions(order):
    asked, instructions = several_questions(), SEVERAL.render_instructions(order)
    prompts = build_prompts(TOKENIZER, asked, order, SEVERAL)
    got = [next(i for i, each in enumerate(instructions) if each in text) for text in prompts.texts]
    for group in "abc":
        for label in (True, False):
            # no instruction goes with a group or with an answer
            assert sorted(i for i, q in zip(got, asked, strict=True) if (q.group, q.label) == (group, label)) == [
                0,
                1,
                2,
            ]
    for q, i in zip(asked, got, strict=True):
        assert q.pair is None or i == got[[other.pair for other in asked].index(q.pair)]
    for row, q in enumerate(asked):
        alone = build_prompts(TOKENIZER, [q], order, PromptStyle(SEVERAL.instructions[got[row]]))
        chosen, length = prompts.select([row]), alone.tokens.shape[1]
        assert torch.equal(chosen.tokens[:, :length], alone.tokens)
        for name in ("yes_span", "no_span", "first_query", "instruction_start", "question_end", "last_pos"):
            assert torch.equal(getattr(chosen, name), getattr(alone, name)), name


def test_a_list_of_instructions_is_the_same_as_a_tuple():
    style = PromptStyle(instruction=list(SEVERAL.instructions))
    assert style == SEVERAL
    assert hash(style) == hash(SEVERAL)
    assert style.to_dict() == SEVERAL.to_dict()
    assert PromptStyle(["Yes or No?"]).to_dict() == PromptStyle("Yes or No?").to_dict()
    prompts = [build_prompts(TOKENIZER, several_questions(), "no_yes", each) for each in (style, SEVERAL)]
    assert torch.equal(prompts[0].tokens, prompts[1].tokens)
    with pytest.raises(PromptError, match="no instruction"):
        PromptStyle([])


def test_one_instruction_of_several_without_a_candidate_is_refused():
    with pytest.raises(PromptError, match=r"holds it 0 times; reword 'Answer Yes\.'"):
        build_prompts(TOKENIZER, ONE, "yes_no", PromptStyle(("Yes or No?", "Answer Yes.")))
    with pytest.raises(PromptError, match="no instruction"):
        PromptStyle(())


@pytest.mark.parametrize(
    ("text", "count"), [("Answer Yes.", 0), ("Yes or No, No!", 2), ("Yes or None", 0), ("Yes, no", 0), ("Yes-NoNo", 0)]
)
def test_a_candidate_that_is_not_there_once_is_refused_with_the_text(text, count):
    with pytest.raises(PromptError, match=f"holds it {count} times") as error:
        PromptStyle(text).render_instructions("yes_no")
    assert text in str(error.value)


def test_a_candidate_within_the_other_is_not_looked_for_there():
    assert find_candidates("correct or not correct", "correct", "not correct") == ((0, 7), (11, 22))


@given(st.text(alphabet="abc NoYes.,?!\n", max_size=40), st.text(alphabet="xyz YesNo\n", max_size=40))
@settings(max_examples=40, deadline=None)
def test_whatever_the_question_says_the_candidates_are_those_of_the_instruction(first, second):
    asked = [BinaryQuestion(f"q {first}", True, "a"), BinaryQuestion(f"{second} q", False, "b")]
    prompts = build_prompts(TOKENIZER, asked, "yes_no")
    for row in range(2):
        assert texts(TOKENIZER, prompts, row)[:2] == ("Yes", "No")
    assert torch.equal(prompts.yes_span[0], prompts.yes_span[1])


def test_a_question_that_repeats_the_instruction_changes_nothing():
    style = PromptStyle("Say Yes or No.")
    prompts = build_prompts(TOKENIZER, [BinaryQuestion("Say Yes or No.", True, "a")], "yes_no", style)
    assert texts(TOKENIZER, prompts)[2].startswith("\n\nQuestion: Say")


def test_padding_is_on_the_right_and_marked():
    prompts = build_prompts(TOKENIZER, [*ONE, BinaryQuestion("Short?", False, "s")], "yes_no")
    assert prompts.mask.sum(1).tolist() == (prompts.last_pos + 1).tolist()
    # pads are tokens that the prompt itself has, as the tokenizer's own may be outside the embeddings
    assert (prompts.tokens[1, ~prompts.mask[1]] == prompts.tokens[1, 0]).all()
    assert prompts.position_ids[1].tolist() == list(range(prompts.tokens.shape[1]))
    short = prompts.select([1])
    assert short.tokens.shape[1] == int(short.last_pos[0]) + 1
    assert short.questions[0].id == "s"


def computed(model, prompts):
    """What the package computes from prompts, by every engine that pads."""
    heads = [(0, 1), (1, 2)]
    scores = [ni.score_heads(model, prompts, engine=engine, progress=False) for engine in ("fused", "hooked")]
    return {
        "decisions": ni.decide(model, prompts, batch_size=4, progress=False).logit_differences,
        "plain": model.answer_logits(prompts.tokens, prompts.mask).numpy(),
        "fused scores": scores[0].per_prompt["yes_no"],
        "hooked scores": scores[1].per_prompt["yes_no"],
        "ablation": ni.ablation_effect(model, prompts, heads, progress=False).changed.logit_differences,
    }


@pytest.mark.filterwarnings("ignore:answer mass under")
def test_no_result_depends_on_the_pads(tiny):
    prompts = build_prompts(tiny, QUESTIONS, "yes_no")
    random = torch.randint(len(tiny.tokenizer), prompts.tokens.shape, generator=torch.Generator().manual_seed(0))
    filled = replace(prompts, tokens=torch.where(prompts.mask, prompts.tokens, random))
    assert not torch.equal(filled.tokens, prompts.tokens)
    others = computed(tiny, filled)
    for name, values in computed(tiny, prompts).items():
        np.testing.assert_allclose(others[name], values, atol=1e-5, err_msg=name)


@pytest.mark.filterwarnings("ignore:answer mass under")
@pytest.mark.parametrize("pad", ["<|new pad|>", None])
def test_a_pad_token_that_the_model_lacks_changes_nothing(tiny, pad):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": pad}) if pad else setattr(tokenizer, "pad_token", None)
    assert pad is None or tokenizer.pad_token_id >= tiny.hf.get_input_embeddings().num_embeddings
    model = ni.load_model(tiny_model("llama"), tokenizer=tokenizer)
    prompts = build_prompts(model, QUESTIONS, "yes_no")
    assert int(prompts.tokens.max()) < tiny.hf.get_input_embeddings().num_embeddings
    found = computed(model, prompts)
    for name, values in computed(tiny, build_prompts(tiny, QUESTIONS, "yes_no")).items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def bos_adding(template_too):
    """A tokenizer that adds a BOS token by itself, with a template that holds one or not."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(TOKENIZER)
    bos = tokenizer.bos_token
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    if template_too:
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    return tokenizer


@pytest.mark.parametrize("template_too", [True, False])
@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_one_bos_never_two(template_too, kind):
    tokenizer = bos_adding(template_too)
    prompts = build_prompts(tokenizer, ONE, "yes_no", PromptStyle(kind=kind))
    assert (prompts.tokens[0] == tokenizer.bos_token_id).sum() == 1
    assert prompts.tokens[0, 0] == tokenizer.bos_token_id


def test_no_bos_where_the_tokenizer_adds_none():
    assert (build_prompts(TOKENIZER, ONE, "yes_no").tokens != TOKENIZER.bos_token_id).all()


def test_the_date_is_pinned_and_thinking_is_off():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = (
        "{{ date_string }}|{{ strftime_now('%Y-%m-%d') }}|{% if enable_thinking %}think{% endif %}|"
        "{{ messages[0]['content'] }}\n"
    )
    text = build_prompts(tokenizer, ONE, "yes_no").texts[0]
    assert text.startswith("26 Jul 2024|2024-07-26||You are given")


def test_a_model_without_a_template_falls_back_and_says_so():
    with pytest.warns(UserWarning, match="no chat template"):
        prompts = build_prompts(PLAIN, ONE, "yes_no")
    assert prompts.kind == "plain"
    assert prompts.notes
    with pytest.raises(PromptError, match="no chat template"):
        build_prompts(PLAIN, ONE, "yes_no", PromptStyle(kind="chat"))


def test_a_template_that_rewrites_the_turn_is_refused():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(PromptError, match="rewrites the user's turn"):
        build_prompts(tokenizer, ONE, "yes_no")


def test_a_prompt_longer_than_the_context_names_the_question(tiny):
    long = BinaryQuestion("word " * 3000, True, "too-long")
    with pytest.raises(PromptError, match=r"'too-long' makes a prompt of \d+ tokens, more than the model's context"):
        build_prompts(tiny, [*ONE, long], "yes_no")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"yes": "Yes", "no": "Yes"}, "two different"),
        ({"yes": " "}, "two different"),
        ({"question": "Q:"}, "has no {question}"),
    ],
)
def test_a_style_that_makes_no_sense_is_refused(arguments, says):
    with pytest.raises(PromptError, match=says):
        PromptStyle(**arguments)


def test_one_candidate_that_begins_the_other_is_refused():
    with pytest.raises(PromptError, match="begin with the same tokens"):
        build_prompts(TOKENIZER, ONE, "yes_no", PromptStyle(yes="right", no="right or wrong"))


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(PromptError, match="no character offsets"):
        build_prompts(Slow(), ONE, "yes_no")
