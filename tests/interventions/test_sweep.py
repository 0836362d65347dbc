"""Laws of the sweep over heads: the same numbers as one whole pass a head, by our own edits and by TransformerLens."""

import families
import numpy as np
import pytest
import torch

from nasa_interp import batches, forward, load_model
from nasa_interp.attention import ReplaceHeads, ScaleHeads, instrumented
from nasa_interp.errors import HeadError
from nasa_interp.heads import Head
from nasa_interp.interventions import scale_rows, sweep, sweep_heads
from nasa_interp.models import Model
from nasa_interp.models.bridge import z_hook
from nasa_interp.prompts import PromptBatch, build_prompts

FUSED = [family for family in families.SUPPORTED if (family, "fused") not in families.ENGINE_REFUSES]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def swept(model: Model, prompts: PromptBatch, heads=None, factor: float = 0.0, **options):
    """d of each prompt under scaling of each head."""
    return sweep(model, prompts, heads, scale_rows(factor), **options)


def build(family: str, questions: list) -> tuple[Model, PromptBatch]:
    model = load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())
    return model, build_prompts(model, questions)


@torch.no_grad()
def naive(model: Model, prompts: PromptBatch, heads: tuple[Head, ...], factor: float) -> np.ndarray:
    """A whole pass a head."""
    rows = []
    for head in heads:
        with instrumented(model.hf, edits={head.layer: [ScaleHeads((head.index,), torch.tensor([factor]))]}):
            logits = model.answer_logits(prompts.tokens, prompts.mask)
        rows.append(logits[:, prompts.no_token] - logits[:, prompts.yes_token])
    return torch.stack(rows).numpy()


@torch.no_grad()
def hooked(model: Model, prompts: PromptBatch, heads: tuple[Head, ...]) -> np.ndarray:
    """TransformerLens, prompt by prompt."""
    d = np.empty((len(heads), len(prompts)))
    for row, head in enumerate(heads):

        def zero(z, hook, index=head.index):
            z[:, :, index] = 0
            return z

        for place, end in enumerate(prompts.last_pos.tolist()):
            tokens = prompts.tokens[place : place + 1, : end + 1]
            logits = model.bridge.run_with_hooks(tokens, fwd_hooks=[(z_hook(head.layer), zero)])[0, -1]
            d[row, place] = logits[prompts.no_token] - logits[prompts.yes_token]
    return d


@pytest.mark.parametrize("factor", [0.0, -1.5])
@pytest.mark.parametrize("family", FUSED)
def test_sweep_equals_a_whole_pass_for_each_head(family: str, factor: float, questions) -> None:
    model, prompts = build(family, questions[:4])
    found = swept(model, prompts, factor=factor)
    assert found.heads == tuple(Head(*place) for place in np.ndindex(model.n_layers, model.n_heads))
    expected = naive(model, prompts, found.heads, factor)
    assert np.abs(found.d - expected).max() < 1e-4
    assert np.abs(found.d - found.base).max(1).min() > 1e-3


@pytest.mark.parametrize("family", FUSED)
def test_sweep_equals_transformer_lens(family: str, questions) -> None:
    model, prompts = build(family, questions[:2])
    heads = (Head(1, 3), Head(0, 2), Head(1, 0))
    found = swept(model, prompts, heads)
    assert found.heads == heads
    assert np.abs(found.d - hooked(model, prompts, heads)).max() < 1e-4


def test_sweep_of_the_demo_model(demo, questions) -> None:
    prompts, heads = build_prompts(demo, questions[:2]), (Head(17, 7), Head(29, 0))
    found = swept(demo, prompts, heads)
    assert np.abs(found.d - naive(demo, prompts, heads, 0.0)).max() < 1e-4
    assert np.abs(found.d - hooked(demo, prompts, heads)).max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_batches_chunks_and_prefix_change_nothing(family: str, questions, monkeypatch) -> None:
    model, prompts = build(family, questions)
    expected = swept(model, prompts)
    for options in ({"batch_size": 1}, {"batch_size": 5}, {"share_prefix": False}):
        again = swept(model, prompts, **options)
        assert np.abs(again.d - expected.d).max() < 2e-5
        assert np.abs(again.base - expected.base).max() < 2e-5
    monkeypatch.setattr(batches, "MEMORY_SHARE", 1e-12)  # one prompt's residual stream at a time
    assert np.abs(swept(model, prompts).d - expected.d).max() < 2e-5


def test_a_factor_of_one_changes_nothing(tiny, questions) -> None:
    prompts = build_prompts(tiny, questions)
    found = swept(tiny, prompts, factor=1.0)
    assert np.abs(found.d - found.base).max() < 1e-5


def test_any_edit_that_marks_its_rows(tiny, questions) -> None:
    """Values put in place of each row's head, at the rest alone: the prefix stays as it is."""
    prompts, asked = build_prompts(tiny, questions), []

    def edits(layer, heads, rows: PromptBatch, positions: range):
        asked.append(positions)
        if positions.start == 0:
            return []
        shape = (len(rows), len(positions))
        marked = [torch.tensor([head == index for head in heads])[:, None].expand(shape) for index in range(4)]
        return [ReplaceHeads((index,), torch.zeros(*shape, 1, 12), mark) for index, mark in enumerate(marked)]

    found = sweep(tiny, prompts, None, edits)
    start = forward.shared_prefix_length(prompts)
    assert {positions.start for positions in asked} == {0, start}
    for row, head in enumerate(found.heads):
        late = torch.ones(prompts.tokens.shape, dtype=torch.bool)
        late[:, :start] = False
        with (
            torch.no_grad(),
            instrumented(tiny.hf, edits={head.layer: [ScaleHeads((head.index,), torch.zeros(1), late)]}),
        ):
            logits = tiny.answer_logits(prompts.tokens, prompts.mask)
        expected = logits[:, prompts.no_token] - logits[:, prompts.yes_token]
        assert np.abs(found.d[row] - expected.numpy()).max() < 1e-4


def test_a_head_that_is_not_there_is_refused(tiny, questions) -> None:
    with pytest.raises(HeadError, match=r"9\.0 is outside"):
        swept(tiny, build_prompts(tiny, questions), ["9.0"])


def test_sweeping_no_head_gives_the_model_as_it_is(questions) -> None:
    model, prompts = build("llama", questions)
    found = swept(model, prompts, [])
    assert found.heads == ()
    assert found.d.shape == (0, len(prompts))
    assert np.array_equal(found.base, swept(model, prompts, ["1.1"]).base)


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_the_table_holds_the_changes_in_each_order(tiny, questions, factor: float) -> None:
    heads = ["1.2", "0.3"]
    found = sweep_heads(tiny, questions, heads, factor, draws=20)
    assert list(found.per_prompt) == ["yes_no", "no_yes"]
    means = []
    for order, changes in found.per_prompt.items():
        raw = swept(tiny, build_prompts(tiny, questions, order), heads, factor)
        assert np.array_equal(changes[:, [1, 0], [2, 3]], (raw.d - raw.base).T)
        means.append((raw.d - raw.base).mean(1))
    np.testing.assert_allclose([found[head] for head in heads], np.mean(means, axis=0), atol=1e-6)
    assert np.isnan(found.values).sum() == found.values.size - 2
    assert found.quantity == ("scaling by 0.5" if factor else "zero ablation")
    assert (found.sign, found.unit, found.run.draws, found.ids) == (-1, "logits", 20, tuple(q.id for q in questions))
    assert list(found.ranking().scores) == sorted(found[head] for head in heads)
    built = sweep_heads(tiny, build_prompts(tiny, questions), heads, factor, draws=20)
    assert np.array_equal(built.per_prompt["yes_no"], found.per_prompt["yes_no"], equal_nan=True)
