"""A run folder to one HTML page: everything in it, nothing fetched."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..errors import ResultError
from ..figures.theme import TEMPLATES
from ..results import check_place
from ..run import library_versions, write_text
from ..view.markup import STYLE
from ..view.page import explorer_style, static_script
from .checks import page_problems
from .registry import sections_of
from .section import Section


def write_report(run_folder: str | Path, out: str | Path | None = None) -> Path:
    """Writes what a run folder holds as one HTML page that opens anywhere, without a server.

    Args:
        run_folder: where `nasa-interp demo` and other commands wrote; absent parts are listed at the page's end.
        out: the page; `report.html` in the run folder by default.

    Returns:
        The page's path.

    Raises:
        ResultError: where the folder is missing or holds no result of ours, or where the page would be over 8 MB.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise ResultError(f"{folder} is no folder; name the folder of a run, such as runs/demo")
    sections, missing, broken = sections_of(folder)
    if not sections:
        reason = f" ({broken[0]})" if broken else ""
        raise ResultError(f"{folder} holds no result to report on{reason}; write some with `nasa-interp demo`")
    page = render(sections, [*missing, *broken])
    if problems := page_problems(page):
        raise ResultError(f"the page of {folder} can't be written: {'; '.join(problems[:3])}")
    path = Path(out or folder / "report.html")
    check_place(path, "page")
    return write_text(path, page)


def render(sections: Sequence[Section], missing: Sequence[str]) -> str:
    """The page of these sections."""
    figures, content = [], []
    for section in sections:
        drawn = [_figure(figure, len(figures) + index) for index, figure in enumerate(section.figures)]
        figures += drawn
        content.append({"section": section, "figures": drawn})
    runs = {name: run for section in sections for name, run in section.runs.items() if run}
    scripts = {"plotly": get_plotlyjs(), "page": _asset("page.js")}
    style = _asset("page.css") + STYLE
    if any(section.explores for section in sections):
        scripts["explorer"], style = static_script(), style + explorer_style()
    themes = {name: template.to_plotly_json() for name, template in TEMPLATES.items()}
    return _template().render(
        title=_title(runs, next((f"{s.bias.capitalize()} bias" for s in sections if s.bias), "Yes-no bias")),
        content=content,
        figures=figures,
        missing=missing,
        runs=runs,
        versions=_versions(runs),
        commands=[command for section in sections for command in section.commands],
        summary=[(s, " ".join(s.sentences[: s.leads])) for s in sections if s.sentences[: s.leads]],
        style=Markup(style),
        scripts={name: Markup(text) for name, text in scripts.items()},
        hashes=" ".join(f"'{_hash(text)}'" for text in scripts.values()),
        themes=script_json(themes),
    )


def script_json(value: Any) -> Markup:
    """JSON for a script element, escaped so that no text in it can end the element or open another."""
    text = json.dumps(value)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _figure(figure: go.Figure, number: int) -> dict[str, Any]:
    """A figure for the page: its title and caption become text beside it, and it takes the page's width."""
    title, caption = figure.layout.title.text or "", figure.layout.title.subtitle.text or ""
    bare = go.Figure(figure)
    headed = bool(figure.layout.annotations)
    on_top = figure.layout.xaxis.side == "top"
    top, old = (80 if on_top else 40 if headed else 16), figure.layout.margin.t
    height = int(figure.layout.height - old + top)
    bare.update_layout(title=None, margin={"t": top, "l": 56, "r": 12}, width=None, height=height, dragmode=False)
    bare.layout.template = None
    # A title is safe text with breaks for plotly; as markup the same breaks are spaces.
    words = [Markup(text.replace("<br>", " ")) for text in (title, caption)]
    label = f"{words[0].unescape()}. {words[1].unescape()}. The numbers are in this section's tables."
    return {
        **{"id": f"figure-{number + 1}", "number": number + 1, "title": words[0], "caption": words[1], "label": label},
        **{"json": script_json(json.loads(bare.to_json() or "{}")), "height": height},
        "wide": figure.layout.width is None or figure.layout.width > 640,
    }


def _title(runs: Mapping[str, Mapping[str, Any]], bias: str) -> str:
    models = list(dict.fromkeys(str(run.get("model", "")) for run in runs.values() if run.get("model")))
    return f"{bias} of {', '.join(models)}" if models else bias


def _versions(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Versions of the libraries that computed the results; all of them where runs differ."""
    by_library: dict[str, list[str]] = {}
    for run in runs.values():
        for name, version in (run.get("versions") or {}).items():
            by_library.setdefault(name, []).append(str(version))
    return {
        name: ", ".join(dict.fromkeys(versions))
        for name, versions in (by_library or {k: [v] for k, v in library_versions().items()}).items()
    }


def _hash(text: str) -> str:
    """The hash by which the page's content policy admits a script; no other script runs."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    return resources.files("nasa_interp.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html.j2"))
