"""Holds result files to the JSON Schemas in docs/schemas."""

import functools
import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import jsonschema

from nasa_interp import results
from nasa_interp.run import json_text, write_json

DOCS = Path(__file__).parents[1] / "docs"


@functools.cache
def builder():
    """The program that writes the schemas."""
    spec = importlib.util.spec_from_file_location("build_schemas", DOCS / "build_schemas.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    """Of the files of a kind, as the schema in the docs says."""
    return jsonschema.Draft202012Validator(json.loads((DOCS / "schemas" / f"{kind}.schema.json").read_text()))


def check(content: dict) -> None:
    """Raises AssertionError where a result has a wrong field, or one that its schema doesn't name."""
    kind = content["kind"]
    schema = validator(kind)
    faults = [f"{error.json_path}: {error.message[:200]}" for error in schema.iter_errors(content)]
    assert not faults, (kind, faults[:3])


@contextmanager
def held() -> Iterator[None]:
    """Within, whatever the package writes as a result of a known kind is checked first."""

    def checked(content) -> str:
        text = json_text(content)
        if content.get("kind") in builder().KINDS:
            check(json.loads(text))
        return text

    def write(path, content):
        checked(content)
        return write_json(path, content)

    with mock.patch.object(results, "json_text", checked), mock.patch.object(results, "write_json", write):
        yield
