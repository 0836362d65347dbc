"""The view as plain HTML: the prompt's text once per head, each token shaded by the attention that it gets."""

import html

import numpy as np

from .marks import leans, shades
from .value import HeadView

# Shades are transparent and text keeps its colour, so that both work on light and dark pages.
STYLE = """
.nas-view { font: 0.9rem/1.9 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.nas-view .t { background: rgba(0,158,115,var(--a,0)); border-bottom: 3px solid var(--c,transparent);
  border-radius: 2px; white-space: pre-wrap; padding: 1px 0; }
.nas-view .yes { outline: 2px solid #0072B2; } .nas-view .no { outline: 2px dashed #D55E00; }
.nas-view p { margin: 0.3rem 0 1rem; } .nas-view h4 { margin: 0.6rem 0 0; font: 600 1rem system-ui, sans-serif; }
.nas-view .key { font: 0.85rem/1.5 system-ui, sans-serif; }
"""
KEY = (
    "Shade: mean attention that the queries pay to the token, on a square-root scale up to the largest besides the "
    "first token's. Frames: the candidates, Yes solid and blue, No dashed and orange. Bar under a query: what it "
    "adds to the score, orange toward No, blue toward Yes."
)


def visible(token: str) -> str:
    """A token's text with visible line breaks; a token of spaces alone shows them too."""
    text = token.replace("\r", "").replace("\n", "↵").replace("\t", "⇥")
    return text if text.strip() else text.replace(" ", "␣") or "∅"


def strips(view: HeadView) -> str:
    """One strip of tokens per head, with a key."""
    parts = [f'<div class="nas-view"><p class="key">{html.escape(KEY)}</p>']
    for row, (head, nas) in enumerate(zip(view.heads, view.nas, strict=True)):
        parts.append(f"<h4>Head {head}, NAS {nas:+.2f}</h4><p>{_strip(view, row)}</p>")
    return "".join(parts) + "</div>"


def _strip(view: HeadView, row: int) -> str:
    received, terms = view.received[row], view.contributions[row]
    shade, lean = shades(received), leans(terms)
    spans = []
    for position, token in enumerate(view.tokens):
        style, label = f"--a:{shade[position]:.3f}", f"attention {received[position]:.4f}"
        query = position - view.first_query
        if query >= 0 and not np.isnan(term := terms[query]):
            colour = "213,94,0" if term > 0 else "0,114,178"
            style += f";--c:rgba({colour},{abs(lean[query]):.2f})"
            label += f", adds {term:+.4f} nats"
        role = view.role(position)
        name = {"yes": "the Yes candidate, ", "no": "the No candidate, "}.get(role, "")
        kind = f"t {role}" if role in ("yes", "no") else "t"
        end = "<br>" if token.endswith("\n") else ""
        shown = html.escape(token.replace("\n", "↵"))
        spans.append(f'<span class="{kind}" style="{style}" title="{position}: {name}{label}">{shown}</span>{end}')
    return "".join(spans)
