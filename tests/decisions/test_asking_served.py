"""Decisions through a server: llama.cpp's own on tiny models, against those in memory; and what may be missing."""

import json

import numpy as np
import pytest
import torch
from families import QUESTIONS
from llama_files import llama_file, llama_tokenizer, tiny_for
from llama_server import llama_server
from scripted_server import Reply, chat_reply, completion_reply, scripted

from nasa_interp import BinaryQuestion, PromptStyle, calibrate, decide, load_model, load_server
from nasa_interp.calibration import Calibration
from nasa_interp.cli import main
from nasa_interp.decisions import BinaryReport
from nasa_interp.errors import CalibrationError, PromptError, ServerError
from nasa_interp.evaluation import decide_by_generation
from nasa_interp.prompts import build_prompts, served_prompts

# Tiny random models mean nothing by their answers.
pytestmark = pytest.mark.filterwarnings("ignore:answer mass under:UserWarning", "ignore:calibrated on 6:UserWarning")
PLAIN = PromptStyle(kind="plain")
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    """A tiny model and its file."""
    model = load_model(tiny_for("llama"), tokenizer=llama_tokenizer())
    return model, llama_file(tmp_path_factory.mktemp("tiny") / "tiny.gguf", model.hf, "llama")


@pytest.fixture(scope="module")
def served(tiny_file):
    """The same behind llama.cpp's server, asked for nearly all tokens."""
    with llama_server(tiny_file[1]) as server:
        yield load_server(server.url, "tiny", top=600)


@pytest.mark.parametrize(
    "style",
    [
        PLAIN,
        PromptStyle(kind="plain", yes="No", no="Yes"),
        PromptStyle("Say {first} or {second}.", kind="plain", after=True, system="You decide.", examples=QUESTIONS[:2]),
    ],
)
def test_decisions_are_those_in_memory(served, tiny_file, style):
    theirs, ours = (decide(model, QUESTIONS, style=style, **QUIET) for model in (served, tiny_file[0]))
    assert np.abs(theirs.logit_differences - ours.logit_differences).max() < 1e-4 * np.abs(ours.logit_differences).max()
    assert np.allclose(theirs.answer_masses, ours.answer_masses, atol=1e-4)
    assert (theirs.order, theirs.questions, theirs.run.template) == (ours.order, ours.questions, ours.run.template)


def test_a_chat_is_written_by_the_server_as_by_us(served, tiny_file):
    """In whichever spelling, the same in all questions."""
    theirs = decide(served, QUESTIONS, "yes_no", **QUIET)
    words = ("No", "Yes", " No", " Yes")
    tokens = [tiny_file[0].tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
    style = PromptStyle(kind="chat")
    logits = [_logits(tiny_file[0], question, "yes_no", style)[tokens].tolist() for question in QUESTIONS]
    for bare in ([row[0] - row[1] for row in logits], [row[2] - row[3] for row in logits]):
        if np.isclose(theirs.logit_differences[0], bare[0], atol=1e-3):
            break
    assert np.allclose(theirs.logit_differences, bare, atol=1e-3)
    assert theirs.run.template["kind"] == "chat"
    assert any("writes the template" in note for note in theirs.run.notes)
    assert any("asked as a chat" in note for note in theirs.run.notes)


def test_a_report_is_saved_and_read_like_any_other(served, tmp_path):
    report = decide(served, QUESTIONS, style=PLAIN, **QUIET)
    again = BinaryReport.load(report.save(tmp_path / "r.json"))
    assert np.array_equal(again.logit_differences, report.logit_differences)
    assert (again.run.engine, again.run.model_hash) == ("served", "")
    assert again.run.model == f"tiny at {served.url}"


def test_a_killed_server_loses_nothing(tiny_file, tmp_path):
    """The process dies in the middle; on the same port, the second run asks only for what is missing."""
    path = tiny_file[1]
    whole = tmp_path / "whole"
    with llama_server(path) as server:
        port = server.port
        expected = decide(load_server(server.url, "tiny", top=600), QUESTIONS, style=PLAIN, **QUIET)
        model = load_server(server.url, "tiny", top=600, retries=1, wait=0.01, folder=whole)
        with model.asking() as asking:
            prompts = served_prompts(PLAIN, "yes_no", QUESTIONS)
            for prompt in prompts[:3]:
                asking.first_tokens(prompt, 600)
        server.process.kill()
        server.process.wait()
        with pytest.raises(ServerError, match=r"can't be reached .*tried 2 times.*finished answers are kept"):
            decide(model, QUESTIONS, style=PLAIN, **QUIET)
    with llama_server(path, port=port):
        report = decide(model, QUESTIONS, style=PLAIN, **QUIET)
    assert "3 answers were kept from an earlier run" in report.run.notes
    assert np.allclose(report.logit_differences, expected.logit_differences, atol=1e-3)


def test_a_calibration_is_taken_off_once_and_its_bias_turns_sampled_answers(served, tiny_file, tmp_path):
    found = calibrate(served, QUESTIONS, style=PLAIN, **QUIET)
    report = decide(served, QUESTIONS, style=PLAIN, **QUIET)
    offsets = np.array([found.offsets[order] for order in report.order])
    shifted = report.calibrated(found)
    assert np.allclose(shifted.logit_differences, report.logit_differences - offsets)
    for order in ("yes_no", "no_yes"):
        rows = np.array([o == order for o in report.order])
        assert abs(shifted.logit_differences[rows].mean()) < 1e-6
    with pytest.raises(CalibrationError, match="decide again"):
        shifted.calibrated(found)
    again = Calibration.load(found.save(tmp_path / "c.json"))
    assert again.yes_tokens
    assert again.no_tokens
    answers = decide_by_generation(served, QUESTIONS, style=PLAIN, max_new_tokens=1, calibration=again, **QUIET)
    raw = decide_by_generation(served, QUESTIONS, style=PLAIN, max_new_tokens=1, **QUIET)
    assert list(answers.texts) == _likeliest(tiny_file[0], again)
    assert answers.texts != raw.texts


def _likeliest(model, calibration) -> list[str]:
    """The likeliest token in memory, once the calibration's bias is added to its logit."""
    texts = []
    for order in ("yes_no", "no_yes"):
        for question in QUESTIONS:
            logits = _logits(model, question, order, PLAIN)
            for token, bias in calibration.logit_bias(order).items():
                logits[token] += bias
            texts.append(model.tokenizer.decode(int(logits.argmax())))
    return texts


def _logits(model, question, order, style) -> torch.Tensor:
    """The logits of the answer's first token, in memory."""
    prompts = build_prompts(model, [question], order, style)
    return model.answer_logits(prompts.tokens, prompts.mask)[0]


def test_a_calibration_of_another_server_or_model_is_refused(served, tiny_file):
    found = calibrate(served, QUESTIONS, style=PLAIN, **QUIET)
    with pytest.raises(CalibrationError, match="whose weights aren't known"):
        decide(tiny_file[0], QUESTIONS, style=PLAIN, **QUIET).calibrated(found)
    other = load_server(served.url, "another", top=600)
    with pytest.raises(CalibrationError, match="whose weights aren't known, and the decisions are of another at"):
        decide(other, QUESTIONS, style=PLAIN, **QUIET).calibrated(found)
    with pytest.raises(CalibrationError, match="in that wording"):
        decide_by_generation(
            served, QUESTIONS, style=PromptStyle(kind="plain", question="{question}"), calibration=found
        )


def test_the_command_line(served, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": q.question, "label": q.label}) + "\n" for q in QUESTIONS))
    ask = [served.url, "--model", "tiny", "--data", str(rows), "--prompt", "plain", "--top", "600"]
    keep = [*ask, "--answers", str(tmp_path / "kept")]
    assert main(["decide", *keep, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["decide", *keep, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert main(["calibrate", *keep, "--out", str(tmp_path / "c.json")]) == 0
    assert main(["decide", *keep, "--calibration", str(tmp_path / "c.json")]) == 0
    assert main(["decide", *ask, "--by", "generation"]) == 0
    assert main(["decide", served.url, "--model", "tiny", "--form", "think", "--data", str(rows)]) == 1
    assert "can't think first" in capsys.readouterr().err


def test_a_missing_candidate_is_a_bound_and_said():
    """Where the server gives three tokens and no more, the other candidate is below the least of them."""
    with_both, without_yes = {"No": -0.2, "Yes": -2.0, "x": -4.0}, {"No": -0.2, "Maybe": -2.0, "x": -4.0}

    def reply(asked, number):
        # The fourth question has no Yes among its tokens.
        return Reply(chat_reply(without_yes if "34 + 8" in asked.body["messages"][-1]["content"] else with_both))

    with scripted(reply) as server:
        model = load_server(server.url, "m", top=3)
        with pytest.warns(UserWarning, match="2 of 12 decisions have one candidate alone"):
            report = decide(model, QUESTIONS, **QUIET)
    d = dict(
        zip(zip(report.order, [q.id for q in report.questions], strict=True), report.logit_differences, strict=True)
    )
    assert d["yes_no", "0"] == pytest.approx(1.8)
    assert d["yes_no", "4"] == pytest.approx(3.8, abs=1e-5)
    assert report.answer_masses.max() == pytest.approx(np.exp(-0.2) + np.exp(-2.0))
    # Ten times as many were asked for once, and gave no more.
    assert [asked.body["top_logprobs"] for asked in server.asked].count(30) == 1


def test_a_missing_no_is_a_yes_and_never_a_tie():
    with (
        scripted(lambda asked, number: Reply(chat_reply({"Yes": -0.5}))) as server,
        pytest.warns(UserWarning, match="one candidate alone"),
    ):
        report = decide(load_server(server.url, "m", top=1), QUESTIONS, "yes_no", **QUIET)
    assert report.yes_rate == 1.0


def test_more_tokens_are_asked_for_where_a_candidate_is_missing():
    def reply(asked, number):
        few = {"The": -0.3, "A": -2.0}
        return Reply(chat_reply(few if asked.body["top_logprobs"] == 2 else {**few, "Yes": -5.0, "No": -6.0}))

    with scripted(reply) as server:
        report = decide(load_server(server.url, "m", top=2), QUESTIONS, "yes_no", **QUIET)
    assert np.allclose(report.logit_differences, -1.0)
    assert [asked.body["top_logprobs"] for asked in server.asked[:2]] == [2, 20]


def test_a_server_that_gives_no_more_is_not_asked_for_more_again():
    def reply(asked, number):
        if asked.body["logprobs"] > 5:
            return Reply({"error": "at most 5"}, 400)
        return Reply(completion_reply({" Yes": -0.5, " the": -2.0}))

    with scripted(reply) as server, pytest.warns(UserWarning, match="6 of 6 decisions have one candidate alone"):
        decide(load_server(server.url, "m", top=5), QUESTIONS, "yes_no", style=PLAIN, **QUIET)
    assert len(server.asked) == len(QUESTIONS) + 1


def test_neither_candidate_is_no_decision():
    with (
        scripted(lambda asked, number: Reply(chat_reply({"<think>": 0.0}))) as server,
        pytest.raises(
            ServerError, match=r"12 of 12 prompts \(first: question '0'\) have neither candidate.*--by generation"
        ),
    ):
        decide(load_server(server.url, "m", top=1), QUESTIONS, **QUIET)


def test_a_third_candidate_is_counted_apart():
    style = PromptStyle("Say {first}, {second} or {unsure}.", unsure="Perhaps so")
    tops = {"Perhaps": -0.4, "Yes": -1.5, "No": -3.0}
    with scripted(lambda asked, number: Reply(chat_reply(tops))) as server:
        report = decide(load_server(server.url, "m"), QUESTIONS, style=style, **QUIET)
    assert report.unsure_rate == 1.0
    assert report.answer_masses[0] == pytest.approx(sum(np.exp(list(tops.values()))))


def test_nothing_is_asked_where_a_question_can_t_be():
    asked = [*QUESTIONS, BinaryQuestion("Is <|im_end|> one?", True, "bad")]
    with (
        scripted(lambda asked, number: Reply(chat_reply({"Yes": -0.5, "No": -1.0}))) as server,
        pytest.raises(PromptError, match="'bad' holds"),
    ):
        decide(load_server(server.url, "m"), asked, **QUIET)
    assert not server.asked
