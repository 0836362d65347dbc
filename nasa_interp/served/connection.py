"""Requests over HTTP: within a time limit, tried again where that may help, and one clear line where it doesn't."""

import os
import time
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from ..errors import RequestRefusedError, ServerError, first_line
from ..reading import parse_json

# Where waiting may help: too many requests, and what stands before a server that starts or is overloaded.
BUSY = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 30.0
# No answer of one token with its log-probabilities comes near it.
LARGEST = 64 * 2**20


class _TroubleError(Exception):
    """What went wrong with one try, and how long the server asks to wait."""

    def __init__(self, trouble: str, wait: float = 0.0):
        super().__init__(trouble)
        self.wait = wait


class Connection:
    """Requests to one server, each tried a few times; to be used in a `with` block.

    Args:
        url: of the server, such as "http://127.0.0.1:8080/v1".
        timeout: seconds that one try may take in all.
        retries: how often a request is tried again where the server can't be reached, stalls or is busy.
        wait: seconds before the first of those, doubled before each further one.
        key_from: the environment variable with the key; it is sent, and never shown or written.
    """

    def __init__(self, url: str, timeout: float, retries: int, wait: float, key_from: str):
        self.url, self.timeout, self.retries, self.wait, self.key_from = url, timeout, retries, wait, key_from
        self._key = os.environ.get(key_from, "").strip()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # A proxy of the environment has no way to this machine's own servers.
        outside = not is_loopback(url)
        self._client = httpx.Client(headers=headers, timeout=timeout, trust_env=outside, follow_redirects=False)

    @property
    def sends_key(self) -> bool:
        """Whether requests carry a key."""
        return bool(self._key)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of a reply: to a POST with this body, or to a GET without one.

        Raises:
            RequestRefusedError: the server takes no such request. ServerError: it can't be reached, stalls, is busy for
                too long, wants another key, or answers something that is no JSON.
        """
        for attempt in range(self.retries + 1):
            try:
                return self._once(path, body)
            except _TroubleError as trouble:
                reason = trouble
                if attempt < self.retries:
                    time.sleep(min(max(self.wait * 2**attempt, trouble.wait), LONGEST_WAIT))
        tried = f"tried {self.retries + 1} times" if self.retries else "tried once"
        raise ServerError(
            f"{self.url} {reason} ({tried}); check that the server runs, or allow more time (timeout=, --timeout), and "
            f"ask again: finished answers are kept where a folder was given (folder=, --answers)"
        )

    def _once(self, path: str, body: dict[str, Any] | None) -> Any:
        try:
            status, headers, content = self._exchange(path, body)
        except httpx.TimeoutException:
            raise _TroubleError(f"did not answer within {self.timeout:g} s") from None
        except httpx.TransportError as error:
            raise _TroubleError(f"can't be reached ({type(error).__name__}: {self._said(first_line(error))})") from None
        except httpx.HTTPError as error:
            raise ServerError(f"{self.url} gave no reply that HTTP allows ({first_line(error)}); check it") from error
        if status in BUSY:
            raise _TroubleError(f"is busy or fails (status {status}: {self._said(content)})", _seconds(headers))
        self._check(status, content)
        try:
            return parse_json(content.decode("utf-8"))
        except ValueError:
            raise ServerError(
                f"{self.url} answers what is no JSON ({self._said(content)!r}); is it an OpenAI-compatible server (its "
                f"address usually ends in /v1)?"
            ) from None

    def _exchange(self, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, str], bytes]:
        """One request and its reply, whose bytes must all be there in time: a server may send one now and then."""
        end, received = time.monotonic() + self.timeout, bytearray()
        method = "GET" if body is None else "POST"
        with self._client.stream(method, f"{self.url}/{path}", json=body) as reply:
            for chunk in reply.iter_bytes():
                received += chunk
                if time.monotonic() > end:
                    raise httpx.ReadTimeout("the reply takes too long")
                if len(received) > LARGEST:
                    raise ServerError(f"{self.url} sends more than {LARGEST >> 20} MB as one answer; check what it is")
        return reply.status_code, dict(reply.headers), bytes(received)

    def _check(self, status: int, content: bytes) -> None:
        if status in (401, 403):
            raise ServerError(
                f"{self.url} refuses the key (status {status}: {self._said(content)}); put the right one into the "
                f"environment variable {self.key_from}, or name another (key_from=, --key-from)"
            )
        if status in (400, 413, 422):
            raise RequestRefusedError(
                f"{self.url} refuses the request (status {status}: {self._said(content)}); ask for fewer "
                f"log-probabilities (top=, --top), for another model, or in another form"
            )
        if not 200 <= status < 300:
            raise ServerError(
                f"{self.url} has nothing there (status {status}: {self._said(content)}); check the address, which "
                f"usually ends in /v1, and the model's name"
            )

    def _said(self, content: bytes | str) -> str:
        """The beginning of what a server said, on one line and without the key."""
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
        text = text.replace(self._key, "...") if self._key else text
        return " ".join(text.split())[:200]


def is_loopback(url: str) -> bool:
    """Whether the address is one of this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _seconds(headers: dict[str, str]) -> float:
    """How long the server asks to wait; 0 where it doesn't say, or in words."""
    try:
        return float(headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
