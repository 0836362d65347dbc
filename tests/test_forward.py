"""Laws of the fused pass: batches, prefix, memory and restarts change no result, and the model stays as it was."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, pairwise

import families
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nasa_interp import forward, load_model
from nasa_interp.attention import ScaleHeads, instrumented
from nasa_interp.batches import in_batches, split_batches
from nasa_interp.errors import ModelError
from nasa_interp.forward import (
    Prefix,
    PrefixLayer,
    answer_logits,
    cache_prefix,
    run_fused,
    run_prefix,
    shared_prefix_length,
)
from nasa_interp.models import Model
from nasa_interp.prompts import PromptBatch, build_prompts
from nasa_interp.restart import decoder_layers, residuals_entering, restart_at
from nasa_interp.scoring.fused import score_fused
from nasa_interp.scoring.hooked import score_hooked

FUSED = [family for family in families.SUPPORTED if (family, "fused") not in families.ENGINE_REFUSES]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(family: str, questions: list) -> tuple[Model, PromptBatch]:
    model = load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())
    return model, build_prompts(model, questions)


def logits_of(model: Model, prompts: PromptBatch, **options) -> Tensor:
    found = torch.full((len(prompts), model.config.vocab_size), torch.nan)
    for batch in run_fused(model, prompts, **options):
        assert found[batch.places].isnan().all()
        found[batch.places] = batch.logits
    return found


def close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> bool:
    return bool((ours - theirs).abs().max() <= tolerance * (theirs.max() - theirs.min()))


def agree(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], tolerance: float = 1e-4) -> bool:
    """Scores and counts; the tolerance is relative to the largest score of the model."""
    (scores, counts), (expected, queries) = ours, theirs
    same = torch.equal(counts, queries) and torch.equal(scores.isnan(), expected.isnan())
    expected = expected.nan_to_num()
    return same and bool((scores.nan_to_num() - expected).abs().max() <= tolerance * expected.abs().max())


# Scores -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FUSED)
def test_both_engines_agree(family: str, questions) -> None:
    model, prompts = build(family, questions)
    hooked = score_hooked(model, prompts, progress=False)
    assert hooked[0].nan_to_num().abs().max() > 1e-3
    assert agree(score_fused(model, prompts, progress=False), hooked)


def test_both_engines_agree_on_the_demo_model(demo, questions) -> None:
    prompts = build_prompts(demo, questions[:3])
    assert agree(score_fused(demo, prompts, progress=False), score_hooked(demo, prompts, progress=False))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gpt2"])
def test_batches_order_and_prefix_change_no_score(family: str, questions) -> None:
    model, prompts = build(family, questions)
    expected = score_fused(model, prompts, 1, progress=False, share_prefix=False)
    assert shared_prefix_length(prompts) > families.WINDOW
    for size in (None, 1, 4):
        for share in (True, False):
            assert agree(score_fused(model, prompts, size, progress=False, share_prefix=share), expected)
    order = [3, 0, 5, 1, 4, 2]
    scores, counts = score_fused(model, prompts.select(order), 2, progress=False)
    assert agree((scores, counts), (expected[0][order], expected[1][order]))


def test_reading_alone_needs_no_logits(tiny, questions, one_batch) -> None:
    prompts = build_prompts(tiny, questions)
    (whole,), (read,) = (list(run_fused(tiny, prompts, read=True, logits=logits)) for logits in (True, False))
    assert read.logits.shape == (len(prompts), 0)
    for layer, reading in whole.readings.items():
        assert torch.equal(read.readings[layer].log_yes, reading.log_yes)


# Logits and edits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FUSED)
def test_answer_logits_are_the_plain_models(family: str, questions) -> None:
    model, prompts = build(family, questions)
    expected = model.answer_logits(prompts.tokens, prompts.mask)
    for share in (True, False):
        assert close(logits_of(model, prompts, share_prefix=share), expected)
        assert close(logits_of(model, prompts, share_prefix=share, batch_size=2, read=True), expected)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
def test_edits_reach_the_prefix(family: str, questions) -> None:
    model, prompts = build(family, questions)

    def edits(batch: PromptBatch, positions: range):
        return {0: [ScaleHeads((1, 2), torch.zeros(2))]}

    whole = logits_of(model, prompts, edits=edits, share_prefix=False)
    assert close(logits_of(model, prompts, edits=edits), whole)

    def late(batch: PromptBatch, positions: range):
        return edits(batch, positions) if positions.start else {}

    # two windows reach back from the answer to the rest alone
    assert close(logits_of(model, prompts, edits=late), whole) == (family == "mistral")


def test_one_prompt_shares_nothing_and_a_prefix_ends_before_an_answer(tiny, questions) -> None:
    prompts = build_prompts(tiny, questions)
    assert shared_prefix_length(prompts.select([0])) == 0
    assert run_prefix(tiny, prompts.select([0])).cache() is None
    twins = prompts.select([0, 0])
    assert shared_prefix_length(twins) == int(prompts.last_pos[0])
    unlike = replace(twins, first_query=twins.first_query - torch.tensor([5, 0]))
    assert shared_prefix_length(unlike) == int(prompts.first_query[0]) - 5


def test_queries_that_all_prompts_share_are_read_once_for_all(tiny, questions, one_batch) -> None:
    prompts = build_prompts(tiny, questions)
    assert shared_prefix_length(prompts) > int(prompts.first_query[0])
    [shared] = run_fused(tiny, prompts, read=True)
    [whole] = run_fused(tiny, prompts, read=True, share_prefix=False)
    assert shared.queries.tolist() == whole.queries.tolist()
    for layer, reading in shared.readings.items():
        for name in ("log_yes", "log_no"):
            one, other = getattr(reading, name), getattr(whole.readings[layer], name)
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gpt2"])
def test_a_long_prompt_alone_runs_whole(family: str, questions, monkeypatch) -> None:
    """And scores, answers and edits are those behind the prefix."""
    model, prompts = build(family, questions)
    edits = {"edits": lambda batch, positions: {0: [ScaleHeads((1,), torch.full((1,), 0.3))]}}
    expected = score_fused(model, prompts, 1, progress=False), logits_of(model, prompts, batch_size=1, **edits)
    ran = []
    hook = model.hf.get_input_embeddings().register_forward_hook(lambda *seen: ran.append(tuple(seen[1][0].shape)))
    for above, longest in ((1, int(prompts.last_pos.max()) + 1), (10**6, 0)):
        monkeypatch.setattr(forward, "WHOLE_FROM", 1)
        monkeypatch.setattr(forward, "WHOLE_ABOVE", above)
        ran.clear()
        assert agree(score_fused(model, prompts, 1, progress=False), expected[0])
        assert ((1, longest) in ran) == (longest > 0)
        assert close(logits_of(model, prompts, batch_size=1, **edits), expected[1])
    hook.remove()


def test_a_prefix_cache_stays_as_it_is() -> None:
    keys = torch.arange(12.0).reshape(2, 1, 3, 2)
    layer = PrefixLayer(keys, -keys, torch.tensor([1, 0, 1]))
    new = torch.full((3, 1, 2, 2), 9.0)
    for _ in range(2):
        both, values = layer.update(new, new)
        assert torch.equal(both[:, :, :3], keys[[1, 0, 1]])
        assert torch.equal(values[:, :, :3], -keys[[1, 0, 1]])
        assert torch.equal(both[:, :, 3:], new)
        assert layer.get_seq_length() == 3
        assert layer.get_mask_sizes(2) == (5, 0)


# Memory -------------------------------------------------------------------------------------------------------------


def small_memory(
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    message: str = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
) -> list:
    """The pass fails for more than so many prompts; returns the sizes that were tried."""
    tried, real = [], forward._run_batch

    def run(model, prompts, rows, *rest):
        tried.append(len(rows))
        if len(rows) > most:
            raise RuntimeError(message)
        return real(model, prompts, rows, *rest)

    monkeypatch.setattr(forward, "_run_batch", run)
    return tried


def test_out_of_memory_halves_the_batch(tiny, questions, monkeypatch, one_batch) -> None:
    prompts = build_prompts(tiny, questions)
    expected, logits = score_fused(tiny, prompts, progress=False), logits_of(tiny, prompts)
    tried = small_memory(monkeypatch, most=2)
    assert agree(score_fused(tiny, prompts, progress=False), expected)
    assert tried == [6, 3, 1, 2, 3, 1, 2]
    assert close(logits_of(tiny, prompts), logits)


def test_one_prompt_too_large_is_an_error_and_other_errors_pass(tiny, questions, monkeypatch) -> None:
    prompts = build_prompts(tiny, questions)
    small_memory(monkeypatch, most=0)
    with pytest.raises(ModelError, match="doesn't fit into memory"):
        logits_of(tiny, prompts)
    small_memory(monkeypatch, most=0, message="shapes don't match")
    with pytest.raises(RuntimeError, match="shapes don't match"):
        logits_of(tiny, prompts)


def test_batches_keep_every_item_once() -> None:
    def run(items: list[int]) -> list[int]:
        if len(items) > 3:
            raise torch.OutOfMemoryError("CUDA")
        return items

    batches = split_batches(range(23), [12] * 3 + [5] * 20, lambda length: 60 // length, 40)
    assert [item for batch in in_batches(batches, run) for item in batch] == list(range(23))


def test_batches_end_where_pads_would_cost_more_than_another_batch() -> None:
    # Together 5 x 12 tokens and one batch, apart 12 + 4 x 10 and two.
    for a_batch, sizes in ((7, [1, 4]), (9, [5])):
        batches = split_batches(range(5), [12, 10, 10, 10, 10], lambda length: 60 // length, a_batch)
        assert [len(batch) for batch in batches] == sizes


@given(st.lists(st.integers(1, 9), max_size=9), st.integers(9, 30), st.integers(0, 20))
def test_no_other_cut_takes_fewer_tokens(lengths: list[int], most: int, a_batch: int) -> None:
    lengths = sorted(lengths, reverse=True)

    def tokens(cuts: Iterable[tuple[int, int]]) -> float:
        return sum(a_batch + (end - start) * lengths[start] for start, end in cuts)

    found = list(split_batches(range(len(lengths)), lengths, lambda length: most // length, a_batch))
    assert [item for batch in found for item in batch] == list(range(len(lengths)))
    inner = range(1, len(lengths))
    every = [list(pairwise([0, *ends, len(lengths)])) for n in range(len(lengths)) for ends in combinations(inner, n)]
    fitting = [cuts for cuts in every if all((end - start) * lengths[start] <= most for start, end in cuts)]
    assert tokens((batch[0], batch[-1] + 1) for batch in found) == min(map(tokens, fitting), default=0)


# Restarts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", families.SUPPORTED)
def test_restarting_at_any_layer_gives_the_same_logits(family: str, questions) -> None:
    model, prompts = build(family, questions[:3])
    layers = range(model.n_layers)
    with torch.no_grad():
        with residuals_entering(model.hf, layers) as entering:
            expected = answer_logits(model.hf, prompts, 0, None)
        assert sorted(entering) == list(layers)
        for layer in layers:
            with restart_at(model.hf, layer, entering[layer]):
                assert close(answer_logits(model.hf, prompts, 0, None), expected)
            with restart_at(model.hf, layer, 2 * entering[layer] + 1):
                assert not close(answer_logits(model.hf, prompts, 0, None), expected)


@pytest.mark.parametrize("family", FUSED)
def test_restarting_behind_a_prefix_gives_the_same_logits(family: str, questions) -> None:
    model, prompts = build(family, questions[:3])
    length, layers = shared_prefix_length(prompts), range(model.n_layers)
    tokens = prompts.tokens[:1, :length]
    with torch.no_grad():
        expected = answer_logits(model.hf, prompts, 0, None)
        with residuals_entering(model.hf, layers) as above:
            prefix = cache_prefix(model.hf, tokens)
        with residuals_entering(model.hf, layers) as entering, instrumented(model.hf):
            assert close(answer_logits(model.hf, prompts, length, prefix.cache()), expected)
        for layer in layers:
            running = range(layer, model.n_layers)
            with restart_at(model.hf, layer, above[layer]):
                again = cache_prefix(model.hf, tokens, below=prefix, layers=running)
            for pair, first in zip(again.keys_values, prefix.keys_values, strict=True):
                assert all(torch.equal(one, other) for one, other in zip(pair, first, strict=True))
            with restart_at(model.hf, layer, entering[layer]), instrumented(model.hf, layers=running):
                assert close(answer_logits(model.hf, prompts, length, again.cache()), expected)


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_the_model_is_as_before(family: str, raises: bool, questions) -> None:
    model, prompts = build(family, questions)
    hf = model.hf
    own = decoder_layers(hf)[0].forward
    if raises:
        decoder_layers(hf)[0].forward = own  # a layer that has one of its own, as accelerate leaves it
    config = copy.deepcopy(vars(hf.config))
    state = {name: dict(vars(part)) for name, part in hf.named_modules()}
    before = logits_of(model, prompts)
    try:
        with torch.no_grad(), residuals_entering(hf, [0]) as entering, restart_at(hf, 1, torch.zeros(6, 1, 48)):
            assert decoder_layers(hf)[0].forward != own
            if raises:
                raise KeyError("the body's own")
    except KeyError:
        assert raises
    assert not entering
    score_fused(model, prompts, progress=False)
    assert torch.equal(logits_of(model, prompts), before)
    assert vars(hf.config) == config
    assert {name: dict(vars(part)) for name, part in hf.named_modules()} == state


def test_a_layer_that_is_not_there_is_refused(tiny) -> None:
    with pytest.raises(ModelError, match="no layer 2 to restart at"), restart_at(tiny.hf, 2, torch.zeros(1, 1, 48)):
        pass
    assert Prefix(0).cache() is None
