"""The score once more, as plainly as it can be written: loops over eager attention of plain transformers."""

import math

import torch

from nasa_interp.models.bridge import eager_twin


@torch.no_grad()
def eager_attentions(eager, tokens):
    """Each layer's attention [head, query, key] on one prompt, from a model with eager attention."""
    out = eager(tokens[None], output_attentions=True, use_cache=False)
    return [a[0].double().numpy() for a in out.attentions]


def loop_scores(hf, prompts, windows=None, eager=None):
    """NAS and its absolute terms, [prompt, layer, head] each, one prompt, head and query at a time.

    `eager` is the model itself where it has eager attention; by default one is built around the same weights.
    """
    nas, size, eager = [], [], eager or eager_twin(hf)
    for i in range(len(prompts)):
        last = int(prompts.last_pos[i])
        attentions = eager_attentions(eager, prompts.tokens[i, : last + 1])
        yes, no = range(*prompts.yes_span[i].tolist()), range(*prompts.no_span[i].tolist())
        first, reach = int(prompts.first_query[i]), windows or {}
        rows = [
            [_score(head, yes, no, first, last, reach.get(layer)) for head in attention]
            for layer, attention in enumerate(attentions)
        ]
        nas.append([[n for n, _ in row] for row in rows])
        size.append([[s for _, s in row] for row in rows])
    return torch.tensor(nas), torch.tensor(size)


def _score(attention, yes, no, first, last, window):
    total = absolute = 0.0
    counted = 0
    for query in range(first, last + 1):
        if window is not None and query - min(yes[0], no[0]) >= window:
            continue
        a_yes = sum(float(attention[query, t]) for t in yes) / len(yes)
        a_no = sum(float(attention[query, t]) for t in no) / len(no)
        term = (a_yes + a_no) * (math.log(a_no) - math.log(a_yes)) if a_yes > 0 and a_no > 0 else 0.0
        total, absolute, counted = total + term, absolute + abs(term), counted + 1
    return (total, absolute) if counted else (math.nan, 0.0)


def assert_agrees(found, expected, size):
    """Agreement of two computations: at most 1e-4 of the sum of the absolute terms."""
    found, expected = found.double(), expected.double()
    assert torch.equal(found.isnan(), expected.isnan())
    off = (found - expected).abs().nan_to_num(0.0) - 1e-4 * size
    assert off.max() <= 1e-9, f"off by {off.max():.2e} beyond what is allowed"
