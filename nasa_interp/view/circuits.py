"""The view by CircuitsVis, as a page that asks no server for anything."""

import json

from ..errors import ResultError
from .local import LocalPage
from .markup import visible
from .value import HeadView

_PLACEHOLDER = "nas-tokens-go-here"


def circuitsvis_page(view: HeadView) -> LocalPage:
    """The view as CircuitsVis's AttentionHeads; queries before the first counted one are left blank.

    CircuitsVis's own notebook page fetches a script from a server and pings another one, and it breaks where a token
    holds a closing script tag. So we take its local source and insert the tokens ourselves.
    """
    from circuitsvis.attention import attention_heads

    n = len(view.tokens)
    square = [[[0.0] * n for _ in range(view.first_query)] + rows for rows in view.attention.tolist()]
    names = [f"{head} (NAS {nas:+.2f})" for head, nas in zip(view.heads, view.nas, strict=True)]
    source = attention_heads(square, [_PLACEHOLDER], attention_head_names=names).local_src
    before, placeholder, after = source.partition(json.dumps([_PLACEHOLDER]))
    if not placeholder:
        raise ResultError("this release of CircuitsVis writes its page in another way; use to_figure() or to_html()")
    # A literal "<" could end the script, whatever surrounds it; an escaped one can't.
    tokens = json.dumps([visible(token) for token in view.tokens]).replace("<", "\\u003c").replace(">", "\\u003e")
    # The source's own <div .../> is never closed and would swallow what follows it on a page.
    return LocalPage(f"<div>{before}{tokens}{after}</div></div>")
