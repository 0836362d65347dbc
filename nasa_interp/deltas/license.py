"""The base model's licence, which every export carries, and its name without local folders."""

import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from ..models import Model
from ..models.loading import DEMO_PACKAGE
from ..models.slice_values import plain_view

# A path in a text starts with a slash, a tilde, dots or a drive letter; folder names may contain spaces.
_FILE = re.compile(r"(?<![\w/])(?:~|\.{1,2}|[A-Za-z]:)?[/\\](?![/\\])(?:[^\s/\\,|][^/\\,|\n]*[/\\])*([^\s/\\,|]+)")


def public_name(name: str) -> str:
    """A model's name without local folders."""
    return Path(name).name if name.startswith((".", "/", "~")) or Path(name).exists() or "\\" in name else name


def without_folders(value: Any) -> Any:
    """Plain JSON values with every path in a text cut to its last part; URLs stay.

    A path starts with a slash, "~/", "./", "../" or a drive; "builtin:verify" and "data/x.jsonl" stay.
    """
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return _FILE.sub(r"\1", value) if isinstance(value, str) else value


def license_of(model: Model) -> str | None:
    """The licence's name: the model's own, or what the README.md of its folder says; None where neither is known."""
    source = _source(model)
    if model.license or source is None:
        return model.license
    from huggingface_hub import metadata_load

    try:
        name = (metadata_load(source / "README.md") or {}).get("license")
    except Exception:  # a README may hold anything: no YAML, broken YAML, no text
        return None
    return name if isinstance(name, str) else None


def write_license(model: Model, folder: Path) -> None:
    """Copies the base's licence and notice files into the folder; where it has none, writes the licence's name.

    Nothing is written where no licence is known.
    """
    source = _source(model)
    files = [path for path in sorted(source.iterdir() if source else ()) if path.is_file() and _is_license(path.name)]
    for path in files:
        shutil.copyfile(path, folder / path.name)
    name = license_of(model)
    if not files and name:
        text = f"The base model {public_name(model.name)} is licensed under: {name}\n"
        (folder / "LICENSE").write_text(_demo_license(model) or text, encoding="utf-8")


def _is_license(name: str) -> bool:
    return name.upper().startswith(("LICENSE", "LICENCE", "NOTICE", "COPYING"))


def _demo_license(model: Model) -> str | None:
    if model.name != "demo":
        return None
    try:
        return metadata.distribution(DEMO_PACKAGE.replace("_", "-")).read_text("LICENSE")
    except metadata.PackageNotFoundError:
        return None


def _source(model: Model) -> Path | None:
    """The folder that the model was loaded from, or None."""
    name = getattr(plain_view(model).config, "name_or_path", "")
    return Path(name) if name and Path(name).is_dir() else None
