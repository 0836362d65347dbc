"""A model behind an address: it can be asked, and nothing inside it can be looked at."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestRefusedError
from ..prompts import ServedPrompt
from .answer import ServedAnswer, read_answer, read_text
from .connection import Connection
from .kept import KeptAnswers, key_of

PATHS = {"chat": "chat/completions", "plain": "completions"}
# Known to llama.cpp and vLLM, and to no other: templates that let a model think first don't.
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


@dataclass(frozen=True)
class ServedModel:
    """A model behind an OpenAI-compatible address; made by `load_server`.

    Args:
        url: of the server, such as "http://127.0.0.1:8080/v1".
        model: its name there.
        top: how many of the likeliest tokens are asked for.
        timeout, retries, wait, key_from: as for `Connection`.
        folder: where answers are kept, so that an interrupted run goes on.
    """

    url: str
    model: str
    top: int = 20
    timeout: float = 120.0
    retries: int = 3
    wait: float = 1.0
    folder: Path | None = None
    key_from: str = "NASA_INTERP_API_KEY"

    @property
    def name(self) -> str:
        """How results name it; of a file's path, as llama.cpp names its model, the last part."""
        is_path = self.model.startswith(("/", "~", "."))
        return f"{Path(self.model).name if is_path else self.model} at {self.url}"

    def connect(self) -> Connection:
        """A connection, for a `with` block."""
        return Connection(self.url, self.timeout, self.retries, self.wait, self.key_from)

    @contextmanager
    def asking(self) -> Iterator["Asking"]:
        """Answers to prompts inside the `with` block."""
        kept = KeptAnswers(self.folder)
        with self.connect() as connection:
            yield Asking(self, connection, kept)


@dataclass(eq=False)
class Asking:
    """Prompts in, answers out, over one connection; what was answered before is not asked again.

    Args:
        served: the model.
        connection: to its server.
        kept: earlier answers.
        n_kept: how many answers came from there.
        largest: the most tokens that the server is known not to give.
        plain_template: the server doesn't know `NO_THINKING`.
    """

    served: ServedModel
    connection: Connection
    kept: KeptAnswers
    n_kept: int = 0
    largest: int | None = None
    plain_template: bool = False

    def first_tokens(self, prompt: ServedPrompt, top: int) -> ServedAnswer:
        """The likeliest first tokens of the answer to a prompt.

        Raises:
            ServerError: as `Connection.ask` and `read_answer`.
        """
        # The chat endpoint takes two entries where the other one takes a number.
        ask = {"logprobs": True, "top_logprobs": top} if prompt.kind == "chat" else {"logprobs": top}
        body = {"model": self.served.model, **prompt.body, "max_tokens": 1, "temperature": 0, **ask}
        path, url = PATHS[prompt.kind], self.served.url
        key = key_of(url, path, body)
        found = self.kept.find(key)
        if found is not None:
            self.n_kept += 1
            return found
        answer = read_answer(self._post(path, body, prompt), url)
        self.kept.add(key, answer)
        return answer

    def text(self, prompt: ServedPrompt, max_tokens: int, logit_bias: dict[int, float] | None = None) -> str:
        """The answer in words: the likeliest token each time.

        Args:
            logit_bias: token id -> what to add to its logit, at every position of the answer.
        """
        bias = {"logit_bias": {str(token): value for token, value in logit_bias.items()}} if logit_bias else {}
        body = {"model": self.served.model, **prompt.body, "max_tokens": max_tokens, "temperature": 0, **bias}
        return read_text(self._post(PATHS[prompt.kind], body, prompt), self.served.url)

    def _post(self, path: str, body: dict[str, Any], prompt: ServedPrompt) -> Any:
        if prompt.kind == "plain" or self.plain_template:
            return self.connection.ask(path, body)
        try:
            return self.connection.ask(path, {**body, **NO_THINKING})
        except RequestRefusedError:
            # Either that entry, or the rest: asked without it, the server says which.
            reply = self.connection.ask(path, body)
            self.plain_template = True
            return reply
