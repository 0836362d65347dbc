"""A model that comes hooked takes every verb: through hooks it gives what the plain view gives, and is left alone."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch

import nasa_interp as ni
from nasa_interp.alignment import Limits
from nasa_interp.alignment.recipe import Recipe
from nasa_interp.alignment.trainer import Trainer
from nasa_interp.alignment.tuned import TunedSlices
from nasa_interp.attention import Spans, instrumented
from nasa_interp.attention.edits import CutEdges, ScaleHeads, SwapEdges
from nasa_interp.attribution import attribution_patching, direct_logit_attribution, estimate_zero_ablation
from nasa_interp.errors import AlignmentError, DeltaError, HeadError, ModelError
from nasa_interp.evaluation import decide_by_generation
from nasa_interp.forward import intervenable
from nasa_interp.heads import HeadList
from nasa_interp.interventions import Knockout, Mean, Resample, Scale, Swap, Zero, ablation_effect, sweep_heads
from nasa_interp.models import check
from nasa_interp.models.bridge import build_bridge
from nasa_interp.models.slice_values import read_slices, write_slices
from nasa_interp.models.tunable import outside_hash, tunable_slices
from nasa_interp.patching import patch_heads
from nasa_interp.prompts import build_prompts
from nasa_interp.prompts.pairs import instruction_pairs
from nasa_interp.scoring.patterns import attention_patterns
from nasa_interp.session import resolve_prompts
from nasa_interp.view import view_heads

pytestmark = pytest.mark.filterwarnings("ignore:answer mass")

HEADS = ["0.1", "1.2"]
QUESTIONS = families.QUESTIONS[:5]
QUIET = {"draws": 5, "progress": False}
# All that a bridge takes. GPT-J's adapter drops what a hook on the pattern returns.
FAMILIES = [family for family in families.SUPPORTED if family != "gptj"]
# The candidates lie outside of these families' windows, where cutting them off changes nothing.
BLIND = ("mistral", "phi3")
INTERVENTIONS = (Zero(), Scale(0.3, "after"), Zero("last"), Knockout(), Knockout(renormalize=False), Swap())


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def bridge_of(family: str = "llama"):
    return build_bridge(families.tiny_model(family), families.tiny_tokenizer(), "mine")


def hooked_of(family: str = "llama"):
    """A bridge with a hook that changes nothing, and sends every pass through the hooks."""
    bridge = bridge_of(family)
    bridge.add_hook("blocks.0.hook_resid_pre", lambda value, hook: value)
    return ni.load_model(bridge)


def plain_of(family: str = "llama"):
    return ni.load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())


def others(prefix: str) -> list:
    """The questions in other words, for validation and tests."""
    return [
        ni.BinaryQuestion(f"{prefix} {q.question}", q.label, f"{prefix}{q.id}", q.group) for q in families.QUESTIONS
    ]


def close(one, other) -> bool:
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    return bool(np.nanmax(np.abs(one - other)) <= 1e-4 * max(1.0, np.nanmax(np.abs(other))))


def decisions(model) -> np.ndarray:
    return ni.decide(model, QUESTIONS, **QUIET).logit_differences


@pytest.mark.parametrize("family", FAMILIES)
def test_through_hooks_interventions_do_what_they_do_to_the_plain_view(family: str) -> None:
    plain, hooked = plain_of(family), hooked_of(family)
    for what in (*INTERVENTIONS, None):
        one, other = (
            ablation_effect(model, QUESTIONS, HEADS, what or Mean.over(model, QUESTIONS, HEADS), **QUIET)
            for model in (plain, hooked)
        )
        assert close(other.base.logit_differences, one.base.logit_differences)
        assert close(other.changed.logit_differences, one.changed.logit_differences), what
        moved = [not close(effect.changed.logit_differences, effect.base.logit_differences) for effect in (one, other)]
        assert moved[0] == moved[1], what
        assert moved[0] or family in BLIND, what
        assert other.changed.run.engine == "hooked"
    assert len(hooked.bridge.hook_dict["blocks.0.hook_resid_pre"].fwd_hooks) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_through_hooks_sweeps_estimates_and_attributions_are_the_plain_ones(family: str) -> None:
    plain, hooked = plain_of(family), hooked_of(family)
    for verb in (sweep_heads, estimate_zero_ablation, direct_logit_attribution):
        assert close(*(verb(model, QUESTIONS, draws=5).values for model in (hooked, plain))), verb.__name__
    pairs = {model: instruction_pairs(model, QUESTIONS, kind="order") for model in (hooked, plain)}
    for by in ("head", "class"):
        assert close(*(patch_heads(model, pairs[model], HEADS, by, **QUIET).effect for model in pairs))
    both = ((model, two.clean, two.corrupted) for model, two in pairs.items())
    assert close(*(attribution_patching(*each, draws=5).values for each in both))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("projections", ["q", "qkvo"])
def test_steps_through_hooks_move_the_slices_as_plain_ones_and_nothing_else(family: str, projections: str) -> None:
    changes = []
    for model in (plain_of(family), hooked_of(family)):
        asked = resolve_prompts(model, QUESTIONS, "both", None)
        model = intervenable(model, asked.batches[0])
        slices = tunable_slices(model, HEADS, projections, share=True)
        whole, outside = model.weights_hash(), outside_hash(model.weights, slices)
        tuned = TunedSlices(model, slices)
        before = tuned.state()
        trainer = Trainer(model, asked, [0, 1], Recipe(questions=4, mixed_precision=False))
        steps = trainer.steps(tuned, np.random.default_rng(0), HeadList.of(HEADS))
        assert np.isfinite([next(steps), next(steps)]).all()
        assert model.weights_hash() == whole
        changes.append(torch.cat([(new - old).flatten() for new, old in zip(tuned.state(), before, strict=True)]))
        tuned.write()
        assert model.weights_hash() != whole
        assert outside_hash(model.weights, slices) == outside
    # Adam divides by the gradient's size, so that a gradient of almost nothing may go either way.
    agree = (changes[0] - changes[1]).abs() <= 1e-3 * changes[0].abs().max()
    assert agree.float().mean() > 0.98


def test_alignment_of_a_bridge_is_that_of_its_plain_view_and_carries_over() -> None:
    recipe = Recipe(steps=4, check_every=4, questions=4, learning_rate=1e-2, mixed_precision=False)
    limits = Limits(0.0, 1.0, 1.0, 100.0)
    options = {"recipe": recipe, "limits": limits, "texts": ["a b c d"], "progress": False}
    plain, bridged, hooked = plain_of("gpt_neox"), ni.load_model(bridge_of("gpt_neox")), hooked_of("gpt_neox")
    runs = [ni.align_heads(m, HEADS, families.QUESTIONS, others("Well?"), **options) for m in (plain, bridged, hooked)]
    assert [run.run.engine for run in runs] == ["fused", "fused", "hooked"]
    one, two, three = (run.delta for run in runs)
    assert one == two
    assert (one.base_hash, one.slices) == (three.base_hash, three.slices)
    change = [torch.cat([(b - a).flatten() for a, b in zip(d.before, d.after, strict=True)]) for d in (one, three)]
    assert float((change[0] - change[1]).norm() / change[0].norm()) < 1e-3
    with three.applied(plain):
        changed = decisions(plain)
    assert not close(changed, decisions(plain))
    with three.applied(hooked):
        assert close(decisions(hooked), changed)


def test_answers_are_generated_through_hooks_as_by_the_plain_model() -> None:
    one, other = (
        decide_by_generation(model, QUESTIONS, max_new_tokens=6, progress=False).texts
        for model in (plain_of(), hooked_of())
    )
    assert one == other


def test_resampling_through_hooks() -> None:
    changed = [
        ablation_effect(model, QUESTIONS, HEADS, Resample.over(model, QUESTIONS, HEADS), **QUIET).changed
        for model in (plain_of(), hooked_of())
    ]
    assert close(*(report.logit_differences for report in changed))


def test_a_users_hook_acts_before_and_after_and_stays() -> None:
    """One that scales a layer: the decisions are the scaled model's, through all verbs, and so they are afterwards."""
    bridge = bridge_of()
    bridge.add_hook("blocks.0.hook_mlp_out", lambda value, hook: 3 * value)
    model, prompts = ni.load_model(bridge), build_prompts(plain_of(), QUESTIONS)

    def asked() -> np.ndarray:
        rows = [bridge(prompts.tokens[i : i + 1, : int(prompts.last_pos[i]) + 1])[0, -1] for i in range(len(prompts))]
        return torch.stack([row[prompts.no_token] - row[prompts.yes_token] for row in rows]).detach().numpy()

    before = asked()
    assert not close(before, ni.decide(plain_of(), QUESTIONS, "yes_no", **QUIET).logit_differences)
    assert close(ni.decide(model, QUESTIONS, "yes_no", **QUIET).logit_differences, before)
    assert close(ablation_effect(model, QUESTIONS, [], order="yes_no", **QUIET).base.logit_differences, before)
    sweep_heads(model, QUESTIONS, HEADS, draws=5)
    estimate_zero_ablation(model, QUESTIONS, draws=5)
    with pytest.raises(HeadError):
        ablation_effect(model, QUESTIONS, ["9.9"], **QUIET)
    assert np.array_equal(asked(), before)
    assert len(bridge.hook_dict["blocks.0.hook_mlp_out"].fwd_hooks) == 1
    assert "hooks of the user's" in str(model.state_notes())


@pytest.mark.filterwarnings("ignore:scored with the hooked engine")
def test_patterns_and_views_are_those_of_the_model_with_the_users_hooks() -> None:
    """Read off by hand from the bridge, one prompt alone; the view's contributions sum to the score of the head."""
    bridge = bridge_of()
    bridge.add_hook("blocks.0.hook_resid_pre", lambda value, hook: value.flip(-1))
    model = ni.load_model(bridge)
    prompts = build_prompts(model, QUESTIONS[:3])
    patterns, plain = attention_patterns(model, prompts, HEADS), attention_patterns(plain_of(), prompts, HEADS)
    for row in range(3):
        end = int(prompts.last_pos[row]) + 1
        _, cache = bridge.run_with_cache(prompts.tokens[row : row + 1, :end])
        for place, head in enumerate(HeadList.of(HEADS)):
            own = cache[f"blocks.{head.layer}.attn.hook_pattern"][0, head.index].detach().numpy()
            assert close(patterns.values[row, place, :end, :end], own)
    assert not close(patterns.values, plain.values)
    view, scores = view_heads(model, QUESTIONS[0], HEADS), ni.score_heads(model, QUESTIONS[:1], **QUIET)
    assert close(view.nas, [scores.values[0, 1], scores.values[1, 2]])
    assert len(bridge.hook_dict["blocks.0.hook_resid_pre"].fwd_hooks) == 1


@pytest.mark.parametrize("mark", ["transformers", "transformer_lens"])
def test_quantized_weights_of_a_bridge_are_not_tuned(mark: str) -> None:
    bridge = bridge_of()
    if mark == "transformers":
        bridge.original_model.is_quantized = True
    else:
        bridge.cfg.load_in_4bit = True
    model = ni.load_model(bridge)
    before = model.weights_hash()
    with pytest.raises(ModelError, match="is quantized, and its weights can't be tuned"):
        ni.align_heads(model, HEADS, families.QUESTIONS, others("Well?"), progress=False)
    assert model.weights_hash() == before


def test_our_hooks_are_gone_also_when_the_body_raises() -> None:
    model = hooked_of()
    points = model.bridge.hook_dict.values()
    before = [len(point.fwd_hooks) for point in points]
    with pytest.raises(ZeroDivisionError), instrumented(model.network, outputs_of=[0, 1]):
        _ = 1 / 0
    assert [len(point.fwd_hooks) for point in points] == before
    assert [len(point._forward_hooks) for point in points] == before


def test_a_pass_that_never_runs_is_an_error() -> None:
    network = hooked_of().network
    with pytest.raises(ModelError, match="fired 0 times in one pass"), instrumented(network, outputs_of=[0]):
        pass


def test_an_edge_edit_behind_an_output_edit_of_the_same_head_is_refused() -> None:
    model = hooked_of()
    prompts = build_prompts(model, QUESTIONS[:1])
    swap = SwapEdges((1,), Spans(prompts.yes_span, prompts.no_span))
    edits = {0: [ScaleHeads((1,), torch.zeros(1)), swap]}
    with pytest.raises(ModelError, match="give the edge edit first"), instrumented(model.network, edits=edits):
        pass


def test_edits_of_another_head_give_other_decisions(monkeypatch) -> None:
    """Broken on purpose: the law of interventions above can fail."""
    expected = ablation_effect(plain_of(), QUESTIONS, HEADS, Knockout(), **QUIET).changed.logit_differences
    true = CutEdges.on_pattern
    monkeypatch.setattr(CutEdges, "on_pattern", lambda self, p, v=None: true(self, p.roll(1, 1), v).roll(-1, 1))
    changed = ablation_effect(hooked_of(), QUESTIONS, HEADS, Knockout(), **QUIET).changed.logit_differences
    assert not close(changed, expected)


@pytest.mark.parametrize(
    ("hook", "point"), [("z_hook", "blocks.{}.attn.hook_q"), ("pattern_hook", "blocks.0.attn.hook_pattern")]
)
def test_hooks_that_do_not_act_on_what_they_are_named_for_are_refused(hook: str, point: str, monkeypatch) -> None:
    monkeypatch.setattr(check, hook, point.format)
    with pytest.raises(ModelError, match=r"doesn't act|never fired"):
        ablation_effect(hooked_of(), QUESTIONS, HEADS, Knockout(), **QUIET)


def test_a_model_whose_pattern_hooks_do_nothing_is_refused() -> None:
    """GPT-J's adapter runs the original's attention and drops what a hook on the pattern returns."""
    with pytest.raises(ModelError, match="doesn't act"):
        ablation_effect(plain_of("gptj"), QUESTIONS, HEADS, **QUIET)


def test_a_plain_model_with_hooks_of_its_own_does_not_go_through_its_bridge_without_them() -> None:
    model = plain_of("gemma2")
    # Not a scale: the norm behind the layer would take it out again.
    model.hf.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: output.flip(-1))
    with pytest.raises(ModelError, match="the hooked view doesn't run the hooks on"):
        ablation_effect(model, QUESTIONS, HEADS, **QUIET)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_processed_bridge_is_changed_and_tuned_and_its_delta_is_its_own(family: str, tmp_path) -> None:
    plain, bridge = plain_of(family), bridge_of(family)
    bridge.enable_compatibility_mode(disable_warnings=True)
    model = ni.load_model(bridge)
    before, base = model.weights_hash(), decisions(model)
    # Folding and centring round anew.
    assert np.abs(base - decisions(plain)).max() < 1e-3
    assert not close(ablation_effect(model, QUESTIONS, HEADS, Knockout(), **QUIET).changed.logit_differences, base)
    slices = tunable_slices(model, HEADS, "q")
    old = read_slices(model, slices)
    write_slices(model, {piece: 1.5 * value for piece, value in old.items()})
    delta = ni.deltas.HeadDelta.of(model, before, HEADS, old)
    write_slices(model, old)
    assert model.weights_hash() == before
    loaded = ni.deltas.HeadDelta.load(delta.save(tmp_path / "delta.safetensors"))
    with loaded.applied(model):
        assert not close(decisions(model), base)
    assert close(decisions(model), base)
    with pytest.raises(DeltaError, match="TransformerLens processed its weights"):
        ni.deltas.export(model, delta, tmp_path / "out")
    with pytest.raises(DeltaError, match="the delta was made for"):
        delta.apply(plain)
    assert not (tmp_path / "out").exists()


def test_a_processed_bridge_is_tuned_in_memory() -> None:
    bridge = bridge_of("gpt_neox")
    bridge.enable_compatibility_mode(disable_warnings=True)
    model = ni.load_model(bridge)
    before = model.weights_hash()
    recipe, limits = Recipe(steps=4, check_every=4, questions=4, learning_rate=1e-2), Limits(0.0, 1.0, 1.0, 100.0)
    options = {"recipe": recipe, "limits": limits, "texts": ["a b c d"], "progress": False}
    delta = ni.align_heads(model, HEADS, families.QUESTIONS, others("Well?"), **options).delta
    assert delta.base_hash == before
    assert delta.n_changed
    assert model.weights_hash() == before


@pytest.mark.filterwarnings("ignore:calibrated on")
def test_a_lora_is_left_out_of_a_hooked_models_comparison_and_refused_by_name() -> None:
    model, options = hooked_of(), {"limit": None, "progress": False}
    sets = (families.QUESTIONS, others("Well?"), others("And?"))
    with pytest.raises(AlignmentError, match="a LoRA needs a plain transformers model"):
        ni.compare_methods(model, HEADS, *sets, methods=("lora",), **options)
    recipe = replace(Recipe(), steps=1, check_every=1, questions=2)
    options |= {"texts": ["a b c"], "val_texts": ["d e f"], "draws": 5, "n_random": 1, "seeds": (0,), "recipe": recipe}
    groups = tuple({q.group for q in families.QUESTIONS})
    compared = ni.compare_methods(model, HEADS, *sets, groups=groups, **options)
    assert "lora" not in compared.methods
    assert "nasa" in compared.methods
    assert compared.run.engine == "hooked"
