"""Tasks for other programs: they hold our prompts, token for token, and what can't be asked there is refused."""

import json
from dataclasses import replace

import pytest
import yaml
from families import tiny_tokenizer

import nasa_interp as ni
from nasa_interp.errors import NasaInterpError, PromptError, ResultError
from nasa_interp.harness import write_task
from nasa_interp.harness.tokens import encoded
from nasa_interp.prompts import ORDERS, build_prompts

STYLES = {
    "chat": ni.PromptStyle(),
    "plain": ni.PromptStyle(kind="plain"),
    "after": ni.PromptStyle(after=True),
    "system": ni.PromptStyle(system="You answer every question with one single word."),
    "turns": ni.PromptStyle(("Answer {first} or {second}.", "You MUST answer {first} or {second}.")),
}


class Functions(yaml.SafeLoader):
    """Reads YAML as lm-evaluation-harness does: `!function utils.x` names a function."""


Functions.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read(folder):
    """The YAML files by name, and the questions of each order."""
    tasks = {path.stem: yaml.load(path.read_text(), Functions) for path in folder.glob("*.yaml")}
    rows = {path.stem: list(map(json.loads, path.read_text().splitlines())) for path in folder.glob("*.jsonl")}
    return tasks, rows


def asked(tokenizer, task, row):
    """The tokens that lm-evaluation-harness makes of a row of a task."""
    if "description" not in task and task["num_fewshot"] == 0 and row["text"].endswith("Answer:"):
        return encoded(tokenizer, row["text"])
    samples = task.get("fewshot_config", {}).get("samples", [])
    messages = [{"role": "system", "content": row[task["description"]]}] if "description" in task else []
    for sample in samples:
        answer = task["fewshot_config"]["doc_to_choice"][sample["target"]]
        messages += [{"role": "user", "content": sample["text"]}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": row["text"]})
    return encoded(tokenizer, tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("style", [*STYLES, "examples", "plain examples"])
def test_a_tasks_prompts_are_ours_token_for_token(style, questions, tmp_path) -> None:
    kind, tokenizer = "plain" if style.startswith("plain") else "chat", tiny_tokenizer()
    if style.endswith("examples"):
        chosen = ni.PromptStyle(kind=kind, examples=tuple(questions[:2]))
        questions = questions[2:]
    else:
        chosen = STYLES[style]
    written = write_task(tokenizer, questions, tmp_path / "out", name="t", style=chosen)
    tasks, rows = read(written.folder)
    assert tasks["t"]["task"] == ["t_yes_no", "t_no_yes"]
    for order in ORDERS:
        ours = build_prompts(tokenizer, questions, order, chosen)
        assert [row["id"] for row in rows[f"t_{order}"]] == [q.id for q in questions]
        assert [row["target"] == 0 for row in rows[f"t_{order}"]] == ours.labels.tolist()
        for i, row in enumerate(rows[f"t_{order}"]):
            tokens = ours.tokens[i][ours.mask[i]].tolist()
            task = tasks[f"t_{order}"]
            assert asked(tokenizer, task, row) == tokens
            lead = task["doc_to_choice"][0].removesuffix("Yes")
            assert lead == ("" if kind == "chat" else " ")


def test_the_right_word_is_the_target_where_words_are_reversed(questions, tmp_path) -> None:
    for name, style in (("plain", ni.PromptStyle()), ("turned", ni.PromptStyle(reversed=True))):
        write_task(tiny_tokenizer(), questions, tmp_path / name, name="t", style=style)
    plain, turned = (read(tmp_path / name)[1]["t_yes_no"] for name in ("plain", "turned"))
    assert [row["target"] for row in plain] == [0 if q.label else 1 for q in questions]
    assert [row["target"] for row in turned] == [1 - row["target"] for row in plain]


REFUSED = {
    "can't think before": ni.PromptStyle(think=8),
    "can't be counted apart": ni.PromptStyle("Say {first}, {second} or {unsure}.", unsure="maybe"),
    "has several tokens": ni.PromptStyle(yes="Yesterday", no="nothing at all"),
    "'is right' has several tokens": ni.PromptStyle(yes="is right", no="is wrong"),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_cannot_be_asked_there_is_one_clear_line(says, questions, tmp_path) -> None:
    with pytest.raises(PromptError, match=says) as caught:
        write_task(tiny_tokenizer(), questions, tmp_path / "out", style=REFUSED[says])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_questions_that_would_be_read_otherwise_are_refused_by_name(questions, tmp_path) -> None:
    def write(changed, **options):
        return write_task(tiny_tokenizer(), [*questions, changed], tmp_path / "out", **options)

    with pytest.raises(PromptError, match="question 'x' has no label, and lm-evaluation-harness counts right answers"):
        write_task(tiny_tokenizer(), [ni.BinaryQuestion("Is it?", None, "x")], tmp_path / "out")
    with pytest.raises(NasaInterpError, match="'a'"):
        write(replace(questions[0], question="Is it?"))
    control = ni.BinaryQuestion("Is <|im_end|> a word?", True, "x")
    with (
        pytest.warns(UserWarning, match="read as plain text"),
        pytest.raises(PromptError, match="'x' would be asked in"),
    ):
        write(control)
    assert write(control, style=ni.PromptStyle(allow_special=True)).n_questions == 7


def test_a_template_that_prints_the_date_is_refused_and_one_that_thinks_is_told_not_to(questions, tmp_path) -> None:
    tokenizer, template = tiny_tokenizer(), tiny_tokenizer().chat_template
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + template
    with pytest.raises(PromptError, match="prints the date of the day"):
        write_task(tokenizer, questions, tmp_path / "date")
    tokenizer.chat_template = template + "{% if enable_thinking is not defined or enable_thinking %}think{% endif %}"
    written = write_task(tokenizer, questions, tmp_path / "think")
    assert "enable_thinking=False" in written.commands["lm_eval"]
    assert "enable_thinking=false" in written.commands["inspect_ai"]


def test_a_tokenizer_that_begins_texts_by_itself_begins_them_once(questions, tmp_path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    written = write_task(tokenizer, questions, tmp_path / "out", name="t", style=STYLES["plain"])
    tasks, rows = read(written.folder)
    ours = build_prompts(tokenizer, questions, "yes_no", STYLES["plain"])
    for i, row in enumerate(rows["t_yes_no"]):
        assert asked(tokenizer, tasks["t_yes_no"], row) == ours.tokens[i][ours.mask[i]].tolist()
        assert not row["text"].startswith(bos[0])


def test_prompts_that_the_harness_would_cut_are_refused(questions, tmp_path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 20
    with pytest.raises(PromptError, match=r"question 'a' makes a prompt of .* would cut it silently"):
        write_task(tokenizer, questions, tmp_path / "out")


def test_the_folder_is_new_and_appears_whole(questions, tmp_path) -> None:
    write_task(tiny_tokenizer(), questions, tmp_path / "out", name="t", order="no_yes")
    names = {"README.md", "t.json", "t.py", "t.yaml", "t_no_yes.jsonl", "t_no_yes.yaml", "utils.py"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    with pytest.raises(ResultError, match="is not empty"):
        write_task(tiny_tokenizer(), questions, tmp_path / "out")
    with pytest.raises(ResultError, match="isn't one"):
        write_task(tiny_tokenizer(), questions, tmp_path / "new", name="a/b")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResultError, match="is a file"):
        write_task(tiny_tokenizer(), questions, tmp_path / "file")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "file"}
