"""Answers that came back, one line each in a file of the user's folder, so that none is asked for twice."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..errors import NasaInterpError, ResultError
from ..results import check_folder
from .answer import ServedAnswer

NAME = "answers.jsonl"
HEAD = {"kind": "served_answers", "version": 1}


class KeptAnswers:
    """The answers in a folder, by what was asked of which model; without a folder nothing is kept.

    A line is written as soon as its answer is there; what a killed process left half written is cut off.

    Args:
        folder: new, empty, or with such a file in it; None keeps nothing.

    Raises:
        ResultError: a file that holds something else, or is damaged. NasaInterpError: a folder that can't be written.
    """

    def __init__(self, folder: str | Path | None):
        self._held: dict[str, ServedAnswer] = {}
        self.path = None if folder is None else Path(folder).expanduser() / NAME
        if self.path is not None:
            check_folder(self.path.parent)
            self._read(self.path)

    def __len__(self) -> int:
        return len(self._held)

    def find(self, key: str) -> ServedAnswer | None:
        """The answer that is kept under this key."""
        return self._held.get(key)

    def add(self, key: str, answer: ServedAnswer) -> None:
        """Keeps an answer; it is on the disk when this returns."""
        self._held[key] = answer
        if self.path is not None:
            self._append(self.path, [key, *answer.to_list()])

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise ResultError(f"{path} can't be read ({error.strerror or error}); name another folder") from error
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            # A file without a whole line may be one whose first line was being written.
            begun = bool(lines) or json.dumps(HEAD).encode().startswith(content)
            if not begun or lines[:1] not in ([], [HEAD]):
                raise ResultError(f"{path} holds something else than answers of a server; name another folder")
            self._held = {str(key): ServedAnswer.from_list([text, tokens]) for key, text, tokens in lines[1:]}
        except (ValueError, TypeError) as error:
            raise ResultError(
                f"{path} can't be read as answers of a server ({error}); delete it, and ask again"
            ) from error
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        if not lines:
            self._append(path, HEAD)

    def _append(self, path: Path, content: Any) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(json.dumps(content, allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise NasaInterpError(
                f"{path} can't be written ({error.strerror or error}); name another folder"
            ) from error


def key_of(url: str, path: str, body: dict[str, Any]) -> str:
    """What an answer is kept under: a hash of whom was asked what; the body names the model."""
    asked = json.dumps([url, path, body], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:32]
