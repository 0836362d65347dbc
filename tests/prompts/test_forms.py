"""Forms: what is written, where the candidates stand, what an answer means, and files that say it wrongly."""

import dataclasses

import families
import numpy as np
import pytest

import nasa_interp as ni
from nasa_interp.decisions import BinaryReport
from nasa_interp.errors import PromptError
from nasa_interp.prompts import FORM_NAMES, FORMS, PromptStyle, build_prompts, load_form, with_examples

pytestmark = pytest.mark.filterwarnings("ignore:.*answer mass")

QUESTIONS = families.QUESTIONS


def tiny(family: str = "llama"):
    return ni.load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())


@pytest.mark.parametrize("name", FORM_NAMES)
@pytest.mark.parametrize("order", ["yes_no", "no_yes"])
def test_a_form_names_both_candidates_once_in_its_order_and_in_all_else_the_same(name: str, order, demo) -> None:
    style = load_form(name)
    prompts = build_prompts(demo, ni.load_questions("builtin:verify#val", 4), order, style)
    for row in range(len(prompts)):
        said = [
            demo.tokenizer.decode(prompts.tokens[row, slice(*span[row].tolist())]).strip()
            for span in (prompts.yes_span, prompts.no_span)
        ]
        assert said == [style.yes, style.no]
    assert bool((prompts.yes_span < prompts.no_span).all()) == (order == "yes_no")
    assert style.to_dict() == load_form(name).to_dict()


def test_the_default_form_is_the_default_style() -> None:
    assert FORMS["yes-no"] == PromptStyle()
    assert set(PromptStyle().to_dict()) == {"instruction", "yes", "no", "kind", "question"}


def test_behind_the_question_the_instruction_comes_last_and_nas_is_not_defined() -> None:
    model, style = tiny(), FORMS["after"]
    prompts = build_prompts(model, QUESTIONS, style=style)
    for text, question in zip(prompts.texts, QUESTIONS, strict=True):
        assert text.index(question.question) < text.index("You are given")
    assert (prompts.question_end <= prompts.instruction_start).all()
    assert (prompts.question_end < prompts.yes_span[:, 0]).all()
    with pytest.raises(PromptError, match="NAS isn't defined for this form"):
        ni.score_heads(model, QUESTIONS, style=style, progress=False)
    assert len(ni.decide(model, QUESTIONS, style=style, progress=False).logit_differences) == 2 * len(QUESTIONS)


def test_turned_words_turn_labels_and_the_imbalance_of_the_meaning(tmp_path) -> None:
    model, style = tiny(), FORMS["reversed"]
    prompts = build_prompts(model, QUESTIONS, style=style)
    assert prompts.labels is not None
    assert prompts.labels.tolist() == [not q.label for q in QUESTIONS]
    report = ni.decide(model, QUESTIONS, style=style, progress=False)
    says_yes = report.logit_differences < 0
    labels = np.array([bool(q.label) for q in report.questions])
    assert report.imbalance == pytest.approx((~labels).mean() - says_yes.mean())
    assert report.meaning_imbalance == pytest.approx(labels.mean() - (~says_yes).mean())
    assert "words are turned around" in report.verdict
    again = BinaryReport.load(report.save(tmp_path / "report.json"))
    assert (again.meaning_imbalance, again.accuracy) == (report.meaning_imbalance, report.accuracy)
    straight = ni.decide(model, QUESTIONS, style=FORMS["meaning"], progress=False)
    assert straight.meaning_imbalance == straight.imbalance


def test_the_meaning_goes_with_its_candidate_in_either_order() -> None:
    style = FORMS["reversed"]
    (one,), (other,) = (style.render_instructions(order) for order in ("yes_no", "no_yes"))
    assert "Yes if its right answer is negative, or No if its right answer is positive" in one
    assert "No if its right answer is positive, or Yes if its right answer is negative" in other


def test_a_third_candidate_is_counted_apart(tmp_path) -> None:
    report = ni.decide(tiny(), QUESTIONS, style=FORMS["unsure"], progress=False)
    assert report.unsure is not None
    assert report.unsure_rate == report.unsure.mean()
    marked = np.arange(len(report.questions)) % 3 == 0
    some = dataclasses.replace(report, unsure=marked)
    kept = [i for i in range(len(marked)) if not marked[i]]
    alone = BinaryReport(
        report.logit_differences[kept],
        report.answer_masses[kept],
        tuple(report.order[i] for i in kept),
        tuple(report.questions[i] for i in kept),
        report.run,
    )
    assert some.overall.numbers() == pytest.approx(alone.overall.numbers(), nan_ok=True)
    assert some.overall.n == len(kept)
    assert some.summary_dataframe().set_index("part").loc["all", "unsure"] == pytest.approx(marked.mean())
    again = BinaryReport.load(some.save(tmp_path / "report.json"))
    assert again.unsure is not None
    np.testing.assert_array_equal(again.unsure, marked)
    everyone = dataclasses.replace(report, unsure=np.ones_like(marked))
    assert everyone.overall.n == 0
    assert np.isnan(everyone.imbalance)
    assert everyone.verdict == "It takes the third candidate on 100% of the decisions, counted apart."


def test_the_third_candidate_leads_where_its_token_is_the_likeliest(demo) -> None:
    prompts = build_prompts(demo, ni.load_questions("builtin:verify#val", 2), style=FORMS["unsure"])
    assert prompts.unsure_token is not None
    assert demo.tokenizer.decode([prompts.unsure_token]) == "I"
    logits = demo.answer_logits(prompts.tokens, prompts.mask)
    logits[0, prompts.unsure_token] = logits[0].max() + 1
    logits[1, prompts.unsure_token] = logits[1].min() - 1
    assert (ni.decisions.asking.unsure_lead(logits, prompts) > 0).tolist() == [True, False]


@pytest.mark.parametrize("n", [2, 6])
def test_examples_are_as_many_of_either_answer_and_take_turns(n: int) -> None:
    style = with_examples(PromptStyle(), "builtin:verify#probe", n, seed=3)
    assert [example.label for example in style.examples] == [True, False] * (n // 2)
    assert style == with_examples(PromptStyle(), "builtin:verify#probe", n, seed=3)
    assert style != with_examples(PromptStyle(), "builtin:verify#probe", n, seed=4)


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_examples_stand_before_the_question_with_their_answers(kind, demo) -> None:
    style = dataclasses.replace(load_form("few-shot"), kind=kind)
    question = ni.load_questions("builtin:verify#val", 2)[:1]
    prompts = build_prompts(demo, question, style=style)
    text, at = prompts.texts[0], -1
    for example in style.examples:
        following = text.index(example.question, at + 1)
        assert following > at
        answer = text.index("Yes" if example.label else "No", following + len(example.question))
        assert answer - following - len(example.question) < 40
        at = following
    assert text.index(question[0].question) > at
    assert int(prompts.yes_span[0, 0]) > len(
        demo.tokenizer(text[: text.index(style.examples[-1].question)])["input_ids"]
    )


def test_examples_without_room_are_left_out_and_counted(demo) -> None:
    style = with_examples(PromptStyle(), "builtin:verify#probe", 8)
    questions = ni.load_questions("builtin:verify#val", 4)
    lengths = [
        int(
            build_prompts(demo, questions, style=dataclasses.replace(style, examples=style.examples[k:])).last_pos.max()
        )
        for k in (0, 2, 4)
    ]
    short = dataclasses.make_dataclass("Short", ["tokenizer", "context_length"])(demo.tokenizer, lengths[2] + 1)
    with pytest.warns(UserWarning, match="4 of 8 examples were left out"):
        prompts = build_prompts(short, questions, style=style)
    assert int(prompts.last_pos.max()) == lengths[2]
    assert any("4 of 8 examples" in note for note in prompts.notes)


def test_thoughts_become_a_part_of_the_prompt_and_cuts_are_counted() -> None:
    model = tiny()
    style = PromptStyle("Think, and then answer {first} or {second}.", think=12)
    with pytest.warns(UserWarning, match="thoughts were cut at 12 tokens"):
        report = ni.decide(model, QUESTIONS, style=style, progress=False)
    # Each order's thoughts are its own.
    for order in report.orders:
        assert any("thoughts were cut" in note and order in note for note in report.run.notes)
    with pytest.warns(UserWarning, match="cut at"):
        asked = ni.session.resolve_prompts(model, QUESTIONS, "yes_no", style)
    prompts = asked.batches[0]
    assert prompts.thought
    assert all(text.endswith(style.cue) for text in prompts.texts)
    assert int(prompts.last_pos.max()) > int(build_prompts(model, QUESTIONS, style=style).last_pos.max())


FILES = {
    'yes = "True"\nno = 3': "no is 3; give a str",
    'instruktion = "a"': "has a field 'instruktion'",
    'instruction = "Say it."': "must hold 'Yes' exactly once",
    'unsure = "Maybe"': "{unsure} in the instruction",
    'yes_means = "right"': "give all of them or none",
    "think = true": "think is True; give a int",
    "yes = ": "is no TOML",
    "[examples]\nm = 3": "takes data, n and seed",
    "[examples]\nn = 3": "give an even number",
    '[examples]\ndata = "builtin:content-free"\nn = 2': "fewer than 1 questions whose answer is yes",
    'system = ""\nreversed = "no"': "reversed is 'no'; give a bool",
}


@pytest.mark.parametrize("content", FILES)
def test_a_wrong_file_is_one_clear_error(content: str, tmp_path) -> None:
    path = tmp_path / "form.toml"
    path.write_text(content)
    with pytest.raises(PromptError) as error:
        load_form(path)
    assert FILES[content] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_says_what_a_style_says(tmp_path) -> None:
    path = tmp_path / "form.toml"
    path.write_text(
        'instruction = "Is it so? Say {first} or {second}."\nyes = "True"\nno = "False"\nafter = true\n'
        'system = "Be brief."\n\n[examples]\nn = 2\nseed = 5\n'
    )
    expected = PromptStyle("Is it so? Say {first} or {second}.", yes="True", no="False", after=True, system="Be brief.")
    assert load_form(path) == with_examples(expected, "builtin:verify#probe", 2, seed=5)
    with pytest.raises(PromptError, match=r"no form is called 'yesno'; there are yes-no"):
        load_form("yesno")
    with pytest.raises(PromptError, match="can't be read"):
        load_form(tmp_path / "nothing.toml")
