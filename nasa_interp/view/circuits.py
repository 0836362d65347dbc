"""The view by CircuitsVis, as a page that asks no server for anything."""

import json

from ..errors import ResultError
from .local import LocalPage
from .markup import visible
from .value import HeadView

_PLACE = "nas-tokens-go-here"


def circuitsvis_page(view: HeadView) -> LocalPage:
    """CircuitsVis's AttentionHeads of the view; queries before the first that counts are left blank.

    Its own notebook page fetches a script from a server and pings another, and its page code ends early where a token
    holds a closing script tag. So its local source is used, and the tokens are put in by us.
    """
    from circuitsvis.attention import attention_heads

    n = len(view.tokens)
    square = [[[0.0] * n for _ in range(view.first_query)] + rows for rows in view.attention.tolist()]
    names = [f"{head} (NAS {nas:+.2f})" for head, nas in zip(view.heads, view.nas, strict=True)]
    source = attention_heads(square, [_PLACE], attention_head_names=names).local_src
    before, found, after = source.partition(json.dumps([_PLACE]))
    if not found:
        raise ResultError("this release of CircuitsVis writes its page in another way; use to_figure() or to_html()")
    # In a script "<" can end the script, whatever surrounds it; as an escape it can't.
    tokens = json.dumps([visible(token) for token in view.tokens]).replace("<", "\\u003c").replace(">", "\\u003e")
    # The source's own <div .../> is never closed and would swallow what follows it on a page.
    return LocalPage(f"<div>{before}{tokens}{after}</div></div>")
