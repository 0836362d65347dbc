"""A server that is slow, busy, gone, or answers rubbish gives one clear line, and what came back before is kept."""

import json
import math

import pytest
from scripted_server import Reply, chat_reply, completion_reply, scripted

from nasa_interp import NasaInterpError, load_model, load_server, score_heads
from nasa_interp.cli import main
from nasa_interp.errors import ModelError, RequestRefusedError, ResultError, ServerError
from nasa_interp.prompts import PromptStyle, served_prompts
from nasa_interp.questions import BinaryQuestion
from nasa_interp.served import ServedAnswer, TopToken, read_answer
from nasa_interp.served.kept import NAME, KeptAnswers

QUESTIONS = [BinaryQuestion(f"Is {n} even?", n % 2 == 0, str(n)) for n in range(4)]
CHAT, PLAIN = (served_prompts(PromptStyle(kind=kind), "yes_no", QUESTIONS) for kind in ("chat", "plain"))
GOOD = {"No": -0.5, "Yes": -1.5, "Maybe": -3.0}


def quick(url: str, **options):
    """A model that isn't waited for."""
    return load_server(url, "m", **{"timeout": 20.0, "retries": 2, "wait": 0.001, **options})


def first(url: str, prompt=CHAT[0], **options) -> ServedAnswer:
    with quick(url, **options).asking() as asking:
        return asking.first_tokens(prompt, 20)


@pytest.mark.parametrize("shape", [chat_reply, completion_reply])
def test_both_shapes_say_the_same(shape):
    answer = read_answer(shape(GOOD), "u")
    assert [answer.logprob(word) for word in ("Yes", "No", "Not")] == [-1.5, -0.5, None]
    assert answer.floor == -3.0
    assert math.isclose(answer.unseen, 1 - sum(map(math.exp, GOOD.values())))
    assert ServedAnswer.from_list(json.loads(json.dumps(answer.to_list()))) == answer


def test_a_prompt_goes_to_its_endpoint_as_it_is_worded():
    def reply(asked, number):
        return Reply((chat_reply if "chat" in asked.path else completion_reply)(GOOD))

    with scripted(reply) as server:
        for prompt in (CHAT[0], PLAIN[0]):
            first(server.url, prompt)
    chat, plain = server.asked
    assert (chat.path, plain.path) == ("/v1/chat/completions", "/v1/completions")
    said = "You are given a question and you MUST answer Yes or No.\n\nQuestion: Is 0 even?"
    assert chat.body["messages"] == [{"role": "user", "content": said}]
    assert plain.body["prompt"] == f"{said}\nAnswer:"
    assert (chat.body["top_logprobs"], plain.body["logprobs"]) == (20, 20)
    # A calibration's bias is for generation alone.
    assert all("logit_bias" not in asked.body and asked.body["max_tokens"] == 1 for asked in server.asked)


def test_a_server_that_knows_no_template_settings_is_asked_without():
    def reply(asked, number):
        if "chat_template_kwargs" in asked.body:
            return Reply({"error": {"message": "Unrecognized request argument"}}, 400)
        return Reply(chat_reply(GOOD))

    with scripted(reply) as server, quick(server.url).asking() as asking:
        for prompt in CHAT:
            asking.first_tokens(prompt, 20)
    assert len(server.asked) == 1 + len(CHAT)


RUBBISH = {
    "no JSON": Reply(b"<html>502</html>"),
    "no answer but": Reply({"error": "x"}),
    "no answer but '[]'": Reply([]),
    "no log-probabilities": Reply({"choices": [{"message": {"content": "No"}, "logprobs": None}]}),
    "no log-probabilities, which": Reply({"choices": [{"text": "No", "logprobs": {"content": []}}]}),
    "unknown shape": Reply({"choices": [{"text": "", "logprobs": {"content": [{"top_logprobs": [{"token": "x"}]}]}}]}),
    "unknown shape (": Reply(b'{"choices": [{"logprobs": {"top_logprobs": [{"No": "high"}]}}]}'),
    "can't be (": Reply(chat_reply({"No": 0.0, "Yes": -0.1})),
    "add up to 0)": Reply(chat_reply({"No": -9999.0})),
    "answers what is no JSON": Reply(b'{"choices": [{"logprobs": {"top_logprobs": [{"No": NaN}]}}]}'),
    "has nothing there (status 404": Reply({"error": "not found"}, 404),
    "has nothing there (status 302": Reply(b"", 302, {"location": "http://127.0.0.1:1/"}),
    'refuses the request (status 400: {"error": "too many"}); ask for fewer': Reply({"error": "too many"}, 400),
}


@pytest.mark.parametrize("said", RUBBISH)
def test_rubbish_is_one_line_and_asked_for_once(said):
    with scripted(lambda asked, number: RUBBISH[said]) as server, pytest.raises(ServerError) as error:
        first(server.url, PLAIN[0])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.asked) == 1


def test_busy_servers_and_dropped_connections_are_tried_again():
    rough = [Reply({"error": "loading"}, 503), Reply(drop=True), Reply(chat_reply(GOOD))]
    with scripted(lambda asked, number: rough[number]) as server:
        assert first(server.url).logprob("No") == -0.5
    assert len(server.asked) == 3


def test_a_server_that_stalls_or_stays_busy_or_is_gone():
    with (
        scripted(lambda asked, number: Reply(hang=True)) as server,
        pytest.raises(ServerError, match=r"did not answer within 0\.2 s \(tried 2 times\); check that the server runs"),
    ):
        first(server.url, timeout=0.2, retries=1)
    with (
        scripted(lambda asked, number: Reply({"error": "try later"}, 429, {"retry-after": "0"})) as server,
        pytest.raises(ServerError, match=r"is busy or fails \(status 429: .*try later"),
    ):
        first(server.url)
    assert len(server.asked) == 3
    with pytest.raises(ServerError, match=r"can't be reached \(ConnectError"):
        first(server.url)


def test_the_key_is_sent_and_never_shown_or_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret\n")

    def reply(asked, number):
        key = asked.headers.get("authorization")
        good = Reply(chat_reply(GOOD))
        return good if number == 0 else Reply({"error": f"wrong key: {key}"}, 401)

    with scripted(reply) as server:
        first(server.url, key_from="MY_KEY", folder=tmp_path)
        with pytest.raises(ServerError, match=r"refuses the key \(status 401.*environment variable MY_KEY") as error:
            first(server.url, CHAT[1], key_from="MY_KEY", folder=tmp_path)
        # Without the variable no key goes out.
        with pytest.raises(ServerError, match="wrong key: None"):
            first(server.url, CHAT[1])
    assert server.asked[0].headers["authorization"] == "Bearer sk-very-secret"
    assert "secret" not in str(error.value) + repr(quick(server.url, key_from="MY_KEY"))
    assert all("secret" not in path.read_text() for path in tmp_path.rglob("*"))


def test_answers_are_kept_as_they_come_and_none_is_asked_for_twice(tmp_path):
    def reply(asked, number):
        return Reply(chat_reply({**GOOD, "n": -3.0 - number})) if number < 2 else Reply({"error": "down"}, 500)

    with scripted(reply) as server:
        with quick(server.url, folder=tmp_path).asking() as asking:
            for prompt in CHAT[:2]:
                asking.first_tokens(prompt, 20)
            with pytest.raises(ServerError, match="answers are kept"):
                asking.first_tokens(CHAT[2], 20)
        # A process that was killed while it wrote.
        with (tmp_path / NAME).open("ab") as file:
            file.write(b'["half')
        with quick(server.url, folder=tmp_path).asking() as asking:
            again = [asking.first_tokens(prompt, 20) for prompt in CHAT[:2]]
            assert asking.n_kept == 2
        assert [answer.logprob("n") for answer in again] == [-3.0, -4.0]
        n_asked = len(server.asked)
        # Another model's, or another question's, is another answer.
        other = load_server(server.url, "other", folder=tmp_path, retries=0)
        with other.asking() as asking, pytest.raises(ServerError):
            asking.first_tokens(CHAT[0], 20)
        assert len(server.asked) == n_asked + 1
    assert (tmp_path / NAME).read_bytes().endswith(b"\n")


def test_a_folder_with_something_else_is_refused(tmp_path):
    for content in (b"mine", b'{"kind": "binary_report"}\n', b'{"kind": "served_answers", "version": 1}\n{"x": 1}\n'):
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(ResultError, match=r"answers\.jsonl (holds something else|can't be read as answers)"):
            KeptAnswers(tmp_path)
        assert (tmp_path / NAME).read_bytes() == content
    kept = KeptAnswers(tmp_path / "new")
    kept.add("a", ServedAnswer((TopToken("No", -0.5, 3),), "No"))
    assert KeptAnswers(tmp_path / "new").find("a") == ServedAnswer((TopToken("No", -0.5, 3),), "No")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8080", "is no address of a server"),
        ("http://", "is no address of a server"),
        ("http://me:secret@host/v1", "the address of host holds more than a place"),
        ("https://host/v1?key=secret", "the address of host holds more than a place"),
    ],
)
def test_addresses_that_are_none(url, said):
    with pytest.raises(ServerError, match=said) as error:
        load_server(url, "m")
    assert "secret" not in str(error.value)


def test_the_one_model_of_a_server_needs_no_name():
    listed = [{"data": [{"id": "only"}]}, {"data": [{"id": "a"}, {"id": "b"}]}, {"data": "x"}]
    with scripted(lambda asked, number: Reply(listed[number])) as server:
        assert load_server(server.url).model == "only"
        with pytest.raises(ServerError, match=r"lists 2 models: a, b; name the one to ask \(model=, --model\)"):
            load_server(server.url)
        with pytest.raises(ServerError, match="lists 0 models;"):
            load_server(server.url)


@pytest.mark.parametrize("text", ["<|im_end|>", "</s>", "<start_of_turn>", "[INST]", "<unused7>", "<｜User｜>"])
def test_questions_with_control_tokens_are_refused(text):
    asked = [BinaryQuestion(f"Is this{text} one?", True, "q")]
    with pytest.raises(NasaInterpError, match=r"'q' holds .* control token; take it out, or allow it"):
        served_prompts(PromptStyle(), "yes_no", asked)
    assert served_prompts(PromptStyle(allow_special=True), "yes_no", asked)
    plain = [BinaryQuestion("Is <b>2</b> < 3 | 4 > 1 [sic] <|no end, s> it?", True, "q")]
    assert served_prompts(PromptStyle(), "yes_no", plain)


def test_what_needs_the_inside_says_so_in_one_line(capsys):
    served = load_server("http://127.0.0.1:9/v1", "m")
    with pytest.raises(ModelError, match=r"m at http://127\.0\.0\.1:9/v1 is behind an address, .*inside a model; load"):
        score_heads(served, QUESTIONS)
    with pytest.raises(ModelError, match=r"is a server's address, and this needs what is inside a model; load"):
        load_model("http://127.0.0.1:9/v1")
    assert main(["score", "http://127.0.0.1:9/v1", "--limit", "2"]) == 1
    assert "this needs what is inside a model" in capsys.readouterr().err
    assert main(["decide", "demo", "--model", "m"]) == 2


def test_a_request_that_is_refused_has_a_kind_of_its_own():
    with scripted(lambda asked, number: RUBBISH[list(RUBBISH)[-1]]) as server, pytest.raises(RequestRefusedError):
        first(server.url, PLAIN[0])
