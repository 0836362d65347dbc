"""Reading and editing a hooked model's attention through TransformerLens's own hook points, beside the user's hooks."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import ModelError
from ..models.bridge import Hook, hung, pattern_hook, z_hook
from ..models.hooked import HookedNetwork
from ..models.ready import check_ready
from ..models.windows import attention_windows
from .edits import CutEdges, Edit, SwapEdges, check_edits, hide_edges
from .inputs import CandidateAttention, Spans, span_columns
from .recording import Recording


@contextmanager
def instrumented_hooks(
    network: HookedNetwork,
    *,
    spans: Spans | None = None,
    first_query: int = 0,
    edits: Mapping[int, Sequence[Edit]] | None = None,
    outputs_of: Collection[int] = (),
    layers: Collection[int] | None = None,
) -> Iterator[Recording]:
    """As `instrumented`, for a hooked model: the user's hooks stay and act before ours, and ours are gone afterwards.

    Edges are cut and exchanged in the pattern (`hook_pattern`), outputs are changed and kept behind it (`hook_z`).

    Raises:
        ModelError: a hook that fired another number of times than once, an edge edit behind an edit of the same head's
            output. HeadError: an edit of a head that isn't there.
    """
    check_ready(network.hooked)
    recording, fired, windows = Recording(), Counter(), attention_windows(network)
    every, edits = range(network.cfg.n_layers), edits or {}
    running = set(every) & set(every if layers is None else layers)
    hooks: list[tuple[str, Hook]] = []
    for layer in sorted(running):
        mine = edits.get(layer, ())
        check_edits(mine, network.cfg.n_heads)
        edges = [edit for edit in mine if isinstance(edit, CutEdges | SwapEdges)]
        outputs = [edit for edit in mine if not isinstance(edit, CutEdges | SwapEdges)]
        _check_order(mine)
        if spans is not None or edges:
            pattern = _Pattern(recording, fired, layer, windows[layer], edges, spans, first_query)
            hooks.append((pattern_hook(layer), pattern))
        if outputs or layer in outputs_of:
            hooks.append((z_hook(layer), _Output(recording, fired, layer, outputs, layer in outputs_of)))
    with hung(network.hooked, hooks):
        yield recording
    if wrong := [name for name, _ in hooks if fired[name] != 1]:
        raise ModelError(
            f"the hook {wrong[0]} fired {fired[wrong[0]]} times in one pass, expected 1, so what it reads or changes "
            f"would be wrong; see `nasa-interp doctor`"
        )


class _Pattern:
    """What happens to one layer's attention after the softmax: it is read, and its edges are edited."""

    def __init__(self, recording, fired, layer: int, window: int | None, edges, spans, first_query: int):
        self.recording, self.fired, self.layer, self.window = recording, fired, layer, window
        self.edges, self.spans, self.first_query = edges, spans, first_query

    def __call__(self, pattern: Float[Tensor, "batch head query key"], hook: Any) -> Tensor | None:
        self.fired[pattern_hook(self.layer)] += 1
        new = pattern
        for edit in self.edges:
            new = edit.on_pattern(
                new, _visible(edit.spans, pattern, self.window) if isinstance(edit, SwapEdges) else None
            )
        if self.spans is not None:
            self.recording.readings[self.layer] = self._read(pattern)
        return new if self.edges else None

    def _read(self, pattern: Tensor) -> CandidateAttention:
        assert self.spans is not None
        late = pattern[:, :, self.first_query :]
        # Attention that underflowed to 0 is taken for the smallest number there is; masked keys aren't visible anyway.
        logs = [
            _mean_over(late, span).clamp_min(torch.finfo(torch.float32).tiny).log()
            for span in (self.spans.yes, self.spans.no)
        ]
        visible = _visible(self.spans, pattern, self.window)[:, None, self.first_query :]
        log_yes, log_no = (torch.where(visible, log, torch.nan) for log in logs)
        reading = CandidateAttention(log_yes, log_no, visible)
        for edit in self.edges:
            touched = edit.touched_queries(_visible(self.spans, pattern, self.window))
            reading = hide_edges(reading, edit.heads, touched[:, self.first_query :])
        return reading


class _Output:
    """What happens to one layer's head outputs before they are projected: they are edited, and kept."""

    def __init__(self, recording, fired, layer: int, edits, keep: bool):
        self.recording, self.fired, self.layer, self.edits, self.keep = recording, fired, layer, edits, keep

    def __call__(self, z: Float[Tensor, "batch pos head d_head"], hook: Any) -> Tensor | None:
        self.fired[z_hook(self.layer)] += 1
        for edit in self.edits:
            z = edit.apply(z)
        if self.keep:
            self.recording.outputs[self.layer] = z
        return z


def _check_order(edits: Sequence[Edit]) -> None:
    """Edges are edited before outputs are, whatever the order; which matters where one head takes both."""
    changed: set[int] = set()
    for edit in edits:
        if isinstance(edit, CutEdges | SwapEdges):
            if both := sorted(changed & set(edit.heads)):
                raise ModelError(
                    f"heads {both} take an edit of their edges behind one of their outputs, which hooks can't do; "
                    f"give the edge edit first"
                )
        else:
            changed |= set(edit.heads)


def _mean_over(
    rows: Float[Tensor, "batch head query key"], span: Int[Tensor, "batch 2"]
) -> Float[Tensor, "batch head query"]:
    """Mean attention over the tokens of each prompt's span, at least in fp32."""
    columns, real = span_columns(span.to(rows.device), rows.shape[-1])
    picked = rows.float().gather(-1, columns[:, None, None].expand(-1, rows.shape[1], rows.shape[2], -1))
    real = real[:, None, None]
    return picked.where(real, 0).sum(-1) / real.sum(-1)


def _visible(spans: Spans, pattern: Tensor, window: int | None) -> Bool[Tensor, "batch query"]:
    """Which queries the mask lets see every token of both candidates: causal, and within the layer's window."""
    queries = torch.arange(pattern.shape[2], device=pattern.device)
    seen = torch.ones(len(pattern), pattern.shape[2], dtype=torch.bool, device=pattern.device)
    for span in (spans.yes.to(pattern.device), spans.no.to(pattern.device)):
        seen &= queries >= span[:, 1:] - 1
        if window is not None:
            seen &= queries - span[:, :1] < window
    return seen
