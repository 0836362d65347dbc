"""The explorer's page: one script and one style sheet, beside a kernel or alone."""

import base64
import hashlib
import html
import json
from functools import cache
from importlib import resources
from typing import Any

from ..figures.theme import BLUE, GREEN, ORANGE, PAPER, SKY, TEMPLATES, VERMILLION
from ..run import jsonable
from .markup import KEY
from .snapshot import Snapshot


@cache
def explorer_script() -> str:
    """The widget's script: an ES module whose default export has `render({model, el})`."""
    return _asset("explorer.js")


@cache
def explorer_style() -> str:
    """The widget's style sheet, in the colours of the figures."""
    sides = {"light": {"yes": BLUE, "no": VERMILLION}, "dark": {"yes": SKY, "no": ORANGE}}
    sheet = _asset("explorer.css")
    for theme, template in TEMPLATES.items():
        found = template.to_plotly_json()
        layout, (_, middle, _) = found["layout"], found["data"]["heatmap"][0]["colorscale"]
        named = {**sides[theme], "seen": GREEN, "middle": middle[1], "paper": PAPER[theme]}
        named |= {"text": layout["font"]["color"], "line": layout["xaxis"]["linecolor"]}
        values = " ".join(f"--ni-{name}: {value};" for name, value in named.items())
        sheet = sheet.replace(f"/* {theme} colours */", values)
    return sheet


def static_script(boot: str = "") -> str:
    """The same script for a page without a kernel: it starts on every element that names its data."""
    return f"{explorer_script()}\nbootAll();\n{boot}"


def static_markup(snapshot: Snapshot, name: str) -> str:
    """The element that the page's script fills, and its data."""
    content = {**snapshot.content(), "key": KEY}
    del content["run"]
    return (
        f'<div class="ni-static" data-from="{name}-data" id="{name}"></div>'
        f'<script type="application/json" id="{name}-data">{escaped_json(content)}</script>'
    )


def escaped_json(value: Any) -> str:
    """JSON for a script element, escaped so that no text in it can end the element or open another."""
    text = json.dumps(jsonable(value), separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def explorer_page(snapshot: Snapshot) -> str:
    """A whole page that opens offline; no other script than its own may run on it."""
    papers = ", ".join(PAPER.values())
    script, title = static_script(), f"Heads of {html.escape(snapshot.run.model)}"
    allowed = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src '{allowed}'; style-src 'unsafe-inline'; base-uri 'none'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>{title}</title>'
        f"<style>:root {{ color-scheme: light dark }} body {{ margin: 1rem auto; max-width: 84rem; "
        f"padding: 0 1rem; font-family: system-ui, sans-serif; background: light-dark({papers}) }}\n"
        f"{explorer_style()}</style></head><body><main>{static_markup(snapshot, 'explorer')}</main>"
        f'<script type="module">{script}</script></body></html>\n'
    )


def _asset(name: str) -> str:
    return resources.files("nasa_interp.view").joinpath("assets", name).read_text(encoding="utf-8")
