"""A server on this machine whose replies a test writes, over real sockets: `with scripted(reply) as server:`."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """A request that came in."""

    path: str
    body: Any
    headers: dict[str, str]


@dataclass
class Reply:
    """What goes back: a status and JSON or raw bytes; `hang` sends nothing until the server ends, `drop` hangs up."""

    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False


@dataclass
class Scripted:
    """A running server: its address, and what it was asked."""

    url: str
    asked: list[Asked]


@contextmanager
def scripted(reply: Callable[[Asked, int], Reply]) -> Iterator[Scripted]:
    """Serves what `reply` makes of each request and its number."""
    asked: list[Asked] = []
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            asked.append(Asked(self.path, body, {k.lower(): v for k, v in self.headers.items()}))
            found = reply(asked[-1], len(asked) - 1)
            self.close_connection = True
            if found.hang:
                ended.wait()
            if found.hang or found.drop:
                return
            raw = found.content if isinstance(found.content, bytes) else json.dumps(found.content).encode()
            self.send_response(found.status)
            for name, value in {"content-length": str(len(raw)), **found.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = _answer  # noqa: N815 (http.server's own names)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Scripted(f"http://127.0.0.1:{server.server_port}/v1", asked)
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def chat_reply(tops: dict[str, float], text: str = "No") -> dict[str, Any]:
    """A reply in the shape of chats."""
    rows = [{"token": token, "logprob": value, "bytes": []} for token, value in tops.items()]
    first = {"token": text, "logprob": max(tops.values(), default=0.0), "top_logprobs": rows}
    return {"choices": [{"message": {"role": "assistant", "content": text}, "logprobs": {"content": [first]}}]}


def completion_reply(tops: dict[str, float], text: str = " No") -> dict[str, Any]:
    """A reply in the shape of completions."""
    logprobs = {"tokens": [text], "token_logprobs": [-0.1], "top_logprobs": [tops], "text_offset": [0]}
    return {"choices": [{"text": text, "logprobs": logprobs}]}
