"""Laws of patching: what moves, what doesn't, and agreement with whole passes and with TransformerLens."""

from dataclasses import replace

import families
import numpy as np
import pandas as pd
import pytest
import torch

from nasa_interp import BinaryQuestion, decide, load_model, load_questions
from nasa_interp.attention import ReplaceHeads, instrumented
from nasa_interp.errors import HeadError, ModelError, PromptError, QuestionError, ResultError
from nasa_interp.forward import run_fused, shared_prefix_length
from nasa_interp.heads import Head, HeadList
from nasa_interp.interventions import (
    POSITION_CLASSES,
    HeadOutputs,
    Patch,
    edits_of,
    position_classes,
    record_outputs,
    sweep,
)
from nasa_interp.models import Model
from nasa_interp.patching import PatchEffects, patch_data, patch_heads, patch_together
from nasa_interp.patching.patch import _PatchRows
from nasa_interp.prompts import PromptBatch, PromptPairs, PromptStyle, build_prompts, instruction_pairs, question_pairs

FUSED = [family for family in families.SUPPORTED if (family, "fused") not in families.ENGINE_REFUSES]

TWINS = [
    BinaryQuestion(text, label, f"{pair}-{label}", "facts", pair)
    for pair, yes, no in (
        ("moon", "Is the moon red?", "Is the list red?"),
        ("tom", "Is it Tom or Rome?", "Is it Tom or Paris?"),
        ("milk", "Does the list hold milk, Tom?", "Does the list hold Rome, Tom?"),
    )
    for text, label in ((yes, True), (no, False))
]
"""Twins of as many tokens; the pairs differ in length."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(family: str) -> Model:
    return load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())


def every(model: Model) -> HeadList:
    return HeadList.of(np.ndindex(model.n_layers, model.n_heads))


def logits(model: Model, prompts: PromptBatch, edits=None, **options) -> torch.Tensor:
    found = torch.empty(len(prompts), model.hf.config.vocab_size)
    for batch in run_fused(model, prompts, edits=edits, **options):
        found[batch.places] = batch.logits
    return found


def differences(found: torch.Tensor, prompts: PromptBatch) -> np.ndarray:
    return (found[:, prompts.no_token] - found[:, prompts.yes_token]).numpy()


@torch.no_grad()
def naive(model: Model, pairs: PromptPairs, head: Head, where: torch.Tensor | None = None) -> np.ndarray:
    """One whole pass: the head's outputs of the clean run in the corrupted one."""
    with instrumented(model.hf, outputs_of=[head.layer]) as recording:
        model.answer_logits(pairs.clean.tokens, pairs.clean.mask)
    clean = recording.outputs[head.layer][:, :, [head.index]]
    with instrumented(model.hf, edits={head.layer: [ReplaceHeads((head.index,), clean, where)]}):
        found = model.answer_logits(pairs.corrupted.tokens, pairs.corrupted.mask)
    return differences(found, pairs.corrupted)


def pairs_of(model: Model, kind: str) -> PromptPairs:
    if kind == "question":
        return question_pairs(model, TWINS)
    return instruction_pairs(model, TWINS, kind=kind, neutral="Rome" if kind == "neutral" else None)


def reaches_the_end(family: str, kind: str) -> bool:
    """Whether the last position can see where the two runs differ: two short windows don't reach the instruction."""
    return kind == "question" or None in families.LAYER_WINDOWS.get(family, (None,))


def apart(pairs: PromptPairs) -> PromptPairs:
    """The clean prompts made to differ within the instruction, where the corrupted ones are all the same."""
    tokens, place = pairs.clean.tokens.clone(), int(pairs.clean.instruction_start[0])
    tokens[:, place] = torch.arange(300, 300 + len(tokens))
    return replace(pairs, clean=replace(pairs.clean, tokens=tokens))


@pytest.mark.parametrize("family", FUSED)
def test_patching_a_run_with_itself_changes_nothing(family: str) -> None:
    model = build(family)
    prompts = build_prompts(model, TWINS)
    patch = Patch(record_outputs(model, prompts))
    again = logits(model, prompts, edits_of(every(model), patch))
    torch.testing.assert_close(again, logits(model, prompts), rtol=0, atol=1e-4)
    alone = sweep(model, prompts, None, _PatchRows(patch.source, prompts.mask))
    assert np.abs(alone.d - alone.base).max() < 1e-4


@pytest.mark.parametrize("family", FUSED)
def test_no_heads_no_change(family: str) -> None:
    model = build(family)
    pairs = pairs_of(model, "question")
    assert patch_heads(model, pairs, [], progress=False).patched.shape == (0, 3)
    np.testing.assert_array_equal(patch_together(model, pairs, []).patched, patch_together(model, pairs, []).corrupted)


@pytest.mark.parametrize("kind", ["question", "neutral", "order"])
@pytest.mark.parametrize("family", FUSED)
def test_all_heads_at_the_last_position_recover_everything(family: str, kind: str) -> None:
    """The last token is the same in both runs, so what differs there has come by attention alone."""
    model = build(family)
    found = patch_together(model, pairs_of(model, kind), every(model), "last")
    assert np.abs(found.patched - found.clean).max() < 1e-4
    assert (np.abs(found.corrupted - found.clean).max() > 1e-3) == reaches_the_end(family, kind)
    assert float(found.recovered) == pytest.approx(1, abs=1e-3) or abs(found.difference) < 0.05


@pytest.mark.parametrize("kind", ["question", "neutral", "order"])
@pytest.mark.parametrize("family", FUSED)
def test_each_head_as_a_whole_pass(family: str, kind: str) -> None:
    model = build(family)
    pairs = pairs_of(model, kind)
    found = patch_heads(model, pairs, progress=False)
    assert found.heads == every(model).heads
    for row, head in enumerate(found.heads):
        assert np.abs(found.patched[row] - naive(model, pairs, head)).max() < 1e-4
        if row % 3 == 0:
            alone = patch_together(model, pairs, [head])
            assert np.abs(found.patched[row] - alone.patched).max() < 1e-4
    assert (np.abs(found.patched - found.corrupted).max() > 1e-2) == reaches_the_end(family, kind)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_clean_prompts_that_differ_where_corrupted_ones_are_shared(family: str) -> None:
    """The shared prefix is edited once for all prompts; here each prompt needs its own outputs on it."""
    model = build(family)
    pairs = apart(pairs_of(model, "question"))
    assert shared_prefix_length(pairs.corrupted) > int(pairs.corrupted.first_query[0]) > int(pairs.clean.yes_span.min())
    patch, heads = Patch.of(model, pairs), every(model)
    shared = logits(model, pairs.corrupted, edits_of(heads, patch))
    whole = logits(model, pairs.corrupted, edits_of(heads, patch), share_prefix=False)
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-4)
    assert patch.source.shared == int(pairs.clean.instruction_start[0])
    found = patch_heads(model, pairs, progress=False)
    for row, head in enumerate(found.heads):
        assert np.abs(found.patched[row] - naive(model, pairs, head)).max() < 1e-4
    with pytest.raises(ModelError, match="share_prefix=False"):  # edits that don't say how far they are alike
        logits(model, pairs.corrupted, lambda batch, positions: edits_of(heads, patch)(batch, positions))


def test_one_patch_on_the_shared_prefix_serves_all_prompts(tiny) -> None:
    """With a renamed candidate all clean prompts are alike on the prefix, so it stays shared, and right."""
    pairs = pairs_of(tiny, "neutral")
    patch = Patch.of(tiny, pairs)
    edits = edits_of(every(tiny), patch)
    assert shared_prefix_length(pairs.corrupted, edits) == shared_prefix_length(pairs.corrupted)
    whole = logits(tiny, pairs.corrupted, edits, share_prefix=False)
    torch.testing.assert_close(logits(tiny, pairs.corrupted, edits), whole, rtol=0, atol=1e-4)


def test_rows_are_found_by_question(tiny) -> None:
    pairs = pairs_of(tiny, "neutral")
    patch, order = Patch.of(tiny, pairs), [4, 0, 5, 2]
    edits = edits_of(["0.1", "1.2"], patch)
    some = logits(tiny, pairs.corrupted.select(order), edits)
    torch.testing.assert_close(some, logits(tiny, pairs.corrupted, edits)[order], rtol=0, atol=1e-4)
    with pytest.raises(PromptError, match="no outputs were recorded for question 'new'"):
        logits(tiny, build_prompts(tiny, [BinaryQuestion("Who?", True, "new")]), edits)
    with pytest.raises(PromptError, match="in the order 'yes_no', not 'no_yes'"):
        logits(tiny, build_prompts(tiny, TWINS, "no_yes"), edits)
    with pytest.raises(HeadError, match=r"head 1\.3 were not recorded"):
        logits(tiny, pairs.corrupted, edits_of(["1.3"], Patch.of(tiny, pairs, ["1.2"])))
    other = PromptStyle("You are given a question about Rome and you MUST answer {first} or {second}.")
    with pytest.raises(PromptError, match="another number of tokens"):
        logits(tiny, build_prompts(tiny, TWINS, "yes_no", other), edits)


def lens_patches(model: Model, pairs: PromptPairs, row: int, heads: list[Head], positions: list[int]) -> np.ndarray:
    """TransformerLens's own patching, of one pair: each head at all positions, and then at each of these."""
    from transformer_lens import patching

    end = int(pairs.corrupted.last_pos[row]) + 1
    clean, corrupted = pairs.clean.tokens[row : row + 1, :end], pairs.corrupted.tokens[row : row + 1, :end]
    _, cache = model.bridge.run_with_cache(clean)

    def metric(found: torch.Tensor) -> torch.Tensor:
        return found[0, -1, pairs.corrupted.no_token] - found[0, -1, pairs.corrupted.yes_token]

    index = pd.DataFrame([(h.layer, h.index) for h in heads], columns=["layer", "head"])
    whole = patching.generic_activation_patch(
        model.bridge, corrupted, cache, metric, patching.layer_head_vector_patch_setter, "z", index_df=index
    )
    cells = [(h.layer, p, h.index) for p in positions for h in heads]
    index = pd.DataFrame(cells, columns=["layer", "pos", "head"])
    single = patching.generic_activation_patch(
        model.bridge, corrupted, cache, metric, patching.layer_pos_head_vector_patch_setter, "z", index_df=index
    )
    return np.concatenate([whole.numpy()[None], single.numpy().reshape(-1, len(heads))])


def agree_with_lens(model: Model, pairs: PromptPairs, heads: list[Head], positions: list[int], row: int) -> None:
    with torch.no_grad():
        expected = lens_patches(model, pairs, row, heads, positions)
    one = pairs.select([row])
    whole = patch_heads(model, pairs, heads, progress=False)
    by_position = patch_heads(model, one, heads, "position", progress=False)
    assert np.abs(whole.patched[:, row] - expected[0]).max() < 1e-4
    assert np.abs(by_position.patched[:, positions, 0].T - expected[1:]).max() < 1e-4
    assert np.abs(expected - whole.corrupted[row]).max() > 1e-3


@pytest.mark.parametrize("kind", ["question", "neutral"])
def test_agreement_with_transformer_lens(tiny, kind: str) -> None:
    pairs = pairs_of(tiny, kind)
    last = int(pairs.corrupted.last_pos[1])
    agree_with_lens(tiny, pairs, list(every(tiny)), [*range(12, last, 6), last], 1)


def test_whole_grids_of_transformer_lens(tiny) -> None:
    """Its public functions over all heads and positions, on pairs of one length."""
    from transformer_lens import patching

    pairs = pairs_of(tiny, "question").select([0, 0])
    with torch.no_grad():
        _, cache = tiny.bridge.run_with_cache(pairs.clean.tokens)

        def metric(found: torch.Tensor) -> torch.Tensor:
            return (found[:, -1, pairs.corrupted.no_token] - found[:, -1, pairs.corrupted.yes_token]).mean()

        whole = patching.get_act_patch_attn_head_out_all_pos(tiny.bridge, pairs.corrupted.tokens, cache, metric)
        by_pos = patching.get_act_patch_attn_head_out_by_pos(tiny.bridge, pairs.corrupted.tokens, cache, metric)
    one = pairs.select([0])
    found, placed = (patch_heads(tiny, one, by=by, progress=False) for by in ("head", "position"))
    assert np.abs(found.grid + found.corrupted.mean() - whole.numpy()).max() < 1e-4
    cells = placed.patched[..., 0].reshape(tiny.n_layers, tiny.n_heads, -1).transpose(0, 2, 1)
    assert np.abs(cells - by_pos.numpy()).max() < 1e-4


def test_agreement_with_transformer_lens_on_the_demo_model(demo) -> None:
    data = load_questions("builtin:verify#val", limit=4)
    heads = [Head(17, 7), Head(8, 1)]
    for pairs in (question_pairs(demo, data), instruction_pairs(demo, data)):
        last = int(pairs.corrupted.last_pos[0])
        agree_with_lens(demo, pairs, heads, [int(pairs.corrupted.no_span[0, 0]), last], 0)


def test_classes_and_positions_mark_their_own_places(tiny) -> None:
    pairs = pairs_of(tiny, "neutral")
    by_class = patch_heads(tiny, pairs, by="class", progress=False)
    assert by_class.places == POSITION_CLASSES
    classes = position_classes(pairs.corrupted)
    for row, head in enumerate(by_class.heads):
        for place in range(len(POSITION_CLASSES)):
            expected = naive(tiny, pairs, head, classes == place)
            assert np.abs(by_class.patched[row, place] - expected).max() < 1e-4
    top_layer = by_class.effect[[head.layer == tiny.n_layers - 1 for head in by_class.heads]]
    assert np.abs(top_layer[:, :-1]).max() < 1e-5  # no later layer reads them
    assert np.abs(top_layer[:, -1]).min() > 1e-4
    with pytest.raises(PromptError, match="differ in length"):
        patch_heads(tiny, pairs, by="position", progress=False)
    same = pairs.select([0, 1])
    by_position = patch_heads(tiny, same, ["0.1"], "position", progress=False)
    assert len(by_position.places) == same.corrupted.tokens.shape[1]
    start = int(same.corrupted.no_span[0, 0])
    assert by_position.places[start] == f"{start} (differs)"
    assert by_position.places[start + 1] == f"{start + 1} '.'"
    assert (by_position.patched[:, :start] == by_position.corrupted).all()


def test_position_classes_part_a_prompt(tiny) -> None:
    prompts, tokenizer = build_prompts(tiny, TWINS), tiny.tokenizer
    classes = position_classes(prompts)
    for row in range(len(prompts)):
        parts = [tokenizer.decode(prompts.tokens[row][classes[row] == kind]) for kind in range(len(POSITION_CLASSES))]
        assert parts[1] == "You are given a question and you MUST answer or."
        assert parts[2] == " Yes No"
        assert parts[3] == f"\n\nQuestion: {TWINS[row].question}"
        assert parts[0] + parts[4] == "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
        assert (classes[row] == 4).nonzero()[:, 0].tolist() == [int(prompts.last_pos[row])]
    assert ((classes == len(POSITION_CLASSES)) == ~prompts.mask).all()


def test_chunks_of_pairs_change_nothing(tiny, monkeypatch) -> None:
    pairs = pairs_of(tiny, "neutral")
    expected = patch_heads(tiny, pairs, progress=False)
    together = patch_together(tiny, pairs, ["0.1", "1.2"])
    monkeypatch.setattr("nasa_interp.patching.patch.KEPT_SHARE", 1e-12)
    again = patch_heads(tiny, pairs, batch_size=3, progress=False)
    assert np.abs(again.patched - expected.patched).max() < 1e-4
    assert np.abs(patch_together(tiny, pairs, ["0.1", "1.2"]).patched - together.patched).max() < 1e-4
    with pytest.raises(PromptError, match="outputs of 6 prompts don't go into 1"):
        record_outputs(tiny, pairs.clean, into=pairs.corrupted.select([0]))
    monkeypatch.setattr("nasa_interp.interventions.outputs.KEPT_SHARE", 1e-12)
    with pytest.raises(ModelError, match="name fewer heads or prompts"):
        record_outputs(tiny, pairs.clean)


def test_the_model_is_left_as_it_was_also_when_the_body_raises(tiny) -> None:
    tokens, pairs = torch.arange(5, 25)[None], pairs_of(tiny, "neutral")
    with torch.no_grad():
        before, weights = tiny.hf(tokens).logits, tiny.weights_hash()
        patch_heads(tiny, pairs, progress=False)
        patch_together(tiny, pairs, ["0.1"])
        with pytest.raises(HeadError, match="outside the model"):
            patch_heads(tiny, pairs, ["0.99"], progress=False)
        broken = Patch(HeadOutputs(pairs.clean, {0: (1,)}, {}, tuple(q.id for q in TWINS), "yes_no"))
        with pytest.raises(KeyError):
            logits(tiny, pairs.corrupted, edits_of(["0.1"], broken))
        assert torch.equal(tiny.hf(tokens).logits, before)
    assert tiny.weights_hash() == weights


def test_effects_are_paired_means_with_intervals(tiny) -> None:
    pairs = pairs_of(tiny, "question")
    found = patch_heads(tiny, pairs, draws=200, progress=False)
    np.testing.assert_allclose(found.effect, (found.patched - found.corrupted).mean(1))
    np.testing.assert_allclose(found.recovered, found.effect / (found.clean - found.corrupted).mean())
    for name in ("effect", "recovered"):
        low, high = found.intervals[name]
        assert (low <= getattr(found, name) + 1e-9).all()
        assert (getattr(found, name) <= high + 1e-9).all()
    assert list(found.top(8).scores) == sorted(found.recovered, reverse=True)
    assert list(found.top(8, "effect").scores) == sorted(found.effect)
    assert found.top(1, "size").heads[0] == found.heads[int(np.abs(found.effect).argmax())]
    assert found.top(3).by == "patching question recovered"
    table = found.table
    assert np.array_equal(table.values, found.grid)
    for row, head in enumerate(found.heads):
        assert (table[head], table.get("recovered")[head.layer, head.index]) == (
            found.effect[row],
            found.recovered[row],
        )
        assert np.array_equal(
            table.per_prompt["yes_no"][:, head.layer, head.index], (found.patched - found.corrupted)[row]
        )
        for name, column in (("effect", "values"), ("recovered", "recovered")):
            assert np.array_equal(table.intervals[column][:, head.layer, head.index], found.intervals[name][:, row])
    assert table.top(3).heads == found.top(3, "effect").heads
    assert table.top(3, "recovered").heads == found.top(3).heads
    assert "carry the truth" in repr(found)
    assert "<table" in found._repr_html_()
    with pytest.raises(HeadError, match="'recovered', 'effect' or 'size'"):
        found.top(0)
    with pytest.raises(ResultError, match="patched by 'head', not by 'class'"):
        patch_heads(tiny, pairs, ["0.1"], "class", progress=False).top()
    flat = replace(found, clean=found.corrupted)
    assert np.isnan(flat.recovered).all()
    assert np.isnan(flat.intervals["recovered"]).all()
    with pytest.raises(ResultError, match="too little to recover"):
        flat.top()


@pytest.mark.parametrize("by", ["head", "class", "together"])
def test_saving_and_loading_is_exact(tiny, tmp_path, by: str) -> None:
    pairs = pairs_of(tiny, "question")
    found = (
        patch_together(tiny, pairs, ["0.1", "1.2"])
        if by == "together"
        else patch_heads(tiny, pairs, ["1.2", "0.1"], by, progress=False)
    )
    again = PatchEffects.load(found.save(tmp_path / "patch.json"))
    for name in ("patched", "clean", "corrupted", "effect"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert replace(again, patched=found.patched, clean=found.clean, corrupted=found.corrupted) == replace(found)
    pd.testing.assert_frame_equal(again.to_dataframe(), found.to_dataframe())
    (tmp_path / "patch.json").write_text('{"kind": "patch_effects"}')
    with pytest.raises(ResultError, match="damaged"):
        PatchEffects.load(tmp_path / "patch.json")
    (tmp_path / "patch.json").write_text("[]")
    with pytest.raises(ResultError, match="does not hold"):
        PatchEffects.load(tmp_path / "patch.json")


def test_twins_of_other_lengths_are_left_out_and_counted(tiny) -> None:
    longer = [
        BinaryQuestion("Is it red?", False, "long-no", pair="long"),
        BinaryQuestion("Is it red or blue or green?", True, "long-yes", pair="long"),
        BinaryQuestion("Is it alone?", True, "single", pair="single"),
    ]
    pairs = question_pairs(tiny, [*reversed(TWINS), *longer])
    assert (len(pairs), pairs.left_out) == (3, 1)
    assert all(q.label for q in pairs.clean.questions)
    assert not any(q.label for q in pairs.corrupted.questions)
    assert [q.pair for q in pairs.clean.questions] == [q.pair for q in pairs.corrupted.questions]
    assert "1 of 4 pairs left out" in patch_heads(tiny, pairs, ["0.1"], progress=False).run.notes[-1]
    assert (pairs.carries, pairs_of(tiny, "order").carries) == ("truth", "bias")
    with pytest.raises(QuestionError, match="none of the 1 pairs"):
        question_pairs(tiny, longer)
    with pytest.raises(QuestionError, match="no question has a twin"):
        question_pairs(tiny, longer[-1:])


def test_instruction_pairs_differ_in_the_instruction_alone(tiny) -> None:
    neutral, order = pairs_of(tiny, "neutral"), pairs_of(tiny, "order")
    for pairs in (neutral, order):
        differ = pairs.clean.tokens != pairs.corrupted.tokens
        inside = position_classes(pairs.corrupted) == POSITION_CLASSES.index("candidate")
        assert differ.any(1).all()
        assert not (differ & ~inside).any()
    assert "answer Yes or Rome." in neutral.clean.texts[0]
    assert "answer No or Yes." in order.clean.texts[0]
    assert order.clean.order == "no_yes"
    assert neutral.clean.no_token == neutral.corrupted.no_token
    affirming = instruction_pairs(tiny, TWINS, neutral="Rome", toward="yes")
    assert "answer Rome or No." in affirming.clean.texts[0]
    assert affirming.notes == ("clean: 'Rome' instead of 'Yes'",)
    differ = affirming.clean.tokens != affirming.corrupted.tokens
    start, end = affirming.corrupted.yes_span[0].tolist()
    assert differ[:, start:end].all()
    assert differ.sum() == differ[:, start:end].sum()
    with pytest.raises(PromptError, match="'Maybe' and the other defaults can't stand in place of 'No', which has 1"):
        instruction_pairs(tiny, TWINS)
    with pytest.raises(PromptError, match="is a candidate itself"):
        instruction_pairs(tiny, TWINS, neutral="Yes")
    with pytest.raises(PromptError, match="are no pairs"):
        PromptPairs(neutral.clean, neutral.corrupted.select([0]), "neutral")
    with pytest.raises(PromptError, match="word both in as many tokens"):
        PromptPairs(neutral.clean, neutral.corrupted.select([2, 0, 1, 3, 4, 5]), "neutral")


def test_instruction_pairs_keep_the_tokens_that_answers_share(tiny) -> None:
    style = PromptStyle(yes="it is right", no="it is wrong")
    corrupted = build_prompts(tiny, TWINS, "yes_no", style)
    assert corrupted.shared
    pairs = instruction_pairs(tiny, TWINS, style=style, neutral="it is correct")
    last = pairs.clean.last_pos[0]
    assert pairs.clean.tokens[0, last + 1 - len(corrupted.shared) : last + 1].tolist() == list(corrupted.shared)
    assert "it is correct" in pairs.clean.texts[0]


def test_the_default_neutral_word_of_the_demo_model(demo) -> None:
    pairs = instruction_pairs(demo, load_questions("builtin:verify#val", limit=2))
    assert pairs.notes == ("clean: 'Maybe' instead of 'No'",)


def test_what_the_command_prints(tiny, tmp_path) -> None:
    found = patch_data(tiny, TWINS, ["0.1", "1.2"], progress=False)
    text = found.text(1)
    assert text.count("heads that carry the truth") == 4
    assert "order yes_no: 2 heads by head, 3 pairs" in text
    assert "2 heads together" in text
    assert found.singles["yes_no"].effect.shape == (2,)
    assert set(found.to_dict()["orders"]) == {"yes_no", "no_yes"}
    assert found.save(tmp_path / "patch.json").exists()
    bias = patch_data(tiny, TWINS, None, "neutral", "no_yes", neutral="Rome", by="class", toward="no", progress=False)
    assert not bias.joint
    assert "clean: 'Rome' instead of 'No'" in bias.text()


@pytest.mark.filterwarnings("ignore:answer mass")
def test_a_neutral_word_takes_the_place_of_what_the_model_says_too_often(tiny) -> None:
    """It says Yes to some of them: too seldom where yes is always right, too often where it never is."""
    assert decide(tiny, TWINS, "yes_no", progress=False).yes_rate > 0
    for label, word in ((True, "No"), (False, "Yes")):
        data = [replace(q, label=label) for q in TWINS]
        found = patch_data(tiny, data, ["0.1"], "neutral", "yes_no", neutral="Rome", progress=False)
        assert f"clean: 'Rome' instead of {word!r}" in found.text()
        assert "a candidate renamed" in found.text()


def test_a_model_off_the_fused_engine_is_patched_through_hooks() -> None:
    model = build("gemma2")
    assert patch_heads(model, pairs_of(model, "question"), ["1.1"], progress=False).run.engine == "hooked"
