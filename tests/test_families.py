"""Laws that hold for every family: two engines, two views, one set of weights, each against plain transformers.

Each law is a function that takes a family, returns what it measured, and raises where it doesn't hold; the mutation
tests call the same functions on broken code. Head slices have their laws in test_slices.py. With the environment
variable NASA_INTERP_FAMILIES set (`make families`) the table in docs/families.md is written anew; without, it must
name these families and these outcomes.
"""

import copy
import functools
import hashlib
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from families import (
    ENGINE_REFUSES,
    FAMILIES,
    FULL,
    LAYER_WINDOWS,
    PECULIARITIES,
    QUESTIONS,
    REFUSED,
    SUPPORTED,
    tiny_model,
    tiny_tokenizer,
)
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from nasa_interp.errors import ModelError
from nasa_interp.models import Model, load_model
from nasa_interp.models.loading import quiet_transformers
from nasa_interp.prompts import ORDERS, PromptBatch, PromptStyle, build_prompts
from nasa_interp.scoring.fused import score_fused
from nasa_interp.scoring.hooked import score_hooked

TABLE = Path(__file__).parents[1] / "docs" / "families.md"

AGREEMENT = 1e-4

# Candidates of several tokens and of unequal length, farther from every query than the windows reach.
FAR = PromptStyle(
    instruction="Say {first} or {second}, and nothing else, to the question that follows under this line.",
    yes="true",
    no="not true",
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def wrapped(family: str, dtype: torch.dtype = torch.float32) -> Model:
    """The tiny model with its tokenizer, new at each call."""
    return load_model(tiny_model(family).to(dtype), tokenizer=tiny_tokenizer())


def plain_eager(hf: PreTrainedModel) -> PreTrainedModel:
    """Plain transformers with eager attention from its construction on, and a copy of the same weights."""
    config = copy.deepcopy(hf.config)
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        model = type(hf)(config)
    model.load_state_dict(hf.state_dict())
    return model.to(hf.dtype).eval()


@functools.cache
def prompts_of(order: str, style: PromptStyle | None) -> PromptBatch:
    """Six prompts of unequal length, so that batches are padded."""
    prompts = build_prompts(tiny_tokenizer(), QUESTIONS, order, style)
    assert len(set(prompts.last_pos.tolist())) > 2
    return prompts


@dataclass(frozen=True)
class Looped:
    """What a plain loop over eager attention finds: scores, the sums of their absolute terms, counted queries."""

    scores: Tensor  # prompt layer head
    size: Tensor
    counts: Tensor  # prompt layer


@torch.no_grad()
def loop_over_attention(model: PreTrainedModel, prompts: PromptBatch, windows: tuple[int | None, ...]) -> Looped:
    """The formula as printed, query by query, one prompt at a time without padding."""
    found = []
    for prompt in range(len(prompts)):
        last = int(prompts.last_pos[prompt])
        attentions = model(prompts.tokens[prompt : prompt + 1, : last + 1], output_attentions=True).attentions
        yes, no = (slice(*span[prompt].tolist()) for span in (prompts.yes_span, prompts.no_span))
        queries = range(int(prompts.first_query[prompt]), last + 1)
        for attention, window in zip(attentions, windows, strict=True):
            terms = []
            for query in queries:
                row = attention[0, :, query].double()
                hidden = window is not None and query - min(yes.start, no.start) >= window
                assert bool((row[:, min(yes.start, no.start)] == 0).all()) == hidden
                if not hidden:
                    a_yes, a_no = row[:, yes].mean(-1), row[:, no].mean(-1)
                    terms.append((a_yes + a_no) * (a_no.log() - a_yes.log()))
            stacked = torch.stack(terms) if terms else torch.full((1, attention.shape[1]), torch.nan)
            found.append((stacked.sum(0), stacked.abs().sum(0), torch.tensor(float(len(terms)))))
    scores, size, counts = (torch.stack(part).unflatten(0, (len(prompts), -1)) for part in zip(*found, strict=True))
    return Looped(scores, size, counts)


@functools.cache
def looped(family: str, order: str, style: PromptStyle | None) -> Looped:
    windows = LAYER_WINDOWS.get(family, FULL)
    return loop_over_attention(plain_eager(tiny_model(family)), prompts_of(order, style), windows)


def off(scores: Tensor, expected: Looped) -> float:
    """The largest difference over the sum of absolute terms; infinite where one has a score and the other has none."""
    if not torch.equal(scores.isnan(), expected.scores.isnan()):
        return float("inf")
    return float(((scores - expected.scores).abs() / expected.size).nan_to_num(0.0).max())


def compare_scores(family: str, score: Callable[[Model, PromptBatch], tuple[Tensor, Tensor]]) -> float:
    """An engine against the loop: both orders, near and far candidates, padded batches."""
    model, worst = wrapped(family), 0.0
    for style in (None, FAR):
        for order in ORDERS:
            expected = looped(family, order, style)
            scores, counts = score(model, prompts_of(order, style))
            assert torch.equal(counts, expected.counts), "other queries counted than those that see both candidates"
            worst = max(worst, off(scores, expected))
    assert worst <= AGREEMENT, f"scores are off by {worst:.1e} of their terms"
    return worst


def law_hooked_scores(family: str) -> float:
    """The hooked engine's scores are those of a plain loop over eager attention."""
    return compare_scores(family, functools.partial(score_hooked, batch_size=4, progress=False))


def law_fused_scores(family: str) -> float:
    """So are the fused engine's, with a shared prefix and without."""
    score = functools.partial(score_fused, batch_size=4, progress=False)
    return max(compare_scores(family, functools.partial(score, share_prefix=share)) for share in (True, False))


@torch.no_grad()
def law_logits(family: str) -> float:
    """The bridge's logits are plain transformers', over their range, under padding too."""
    model, prompts = wrapped(family), prompts_of("yes_no", None)
    inputs = {"input_ids": prompts.tokens, "attention_mask": prompts.mask.long()}
    hooked = model.bridge(prompts.tokens, attention_mask=prompts.mask.long())[prompts.mask]
    worst = max(apart(hooked, plain(**inputs).logits[prompts.mask]) for plain in (plain_eager(model.hf), model.hf))
    assert worst <= AGREEMENT, f"the bridge's logits are off by {worst:.1e} of their range"
    return worst


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference over the range."""
    return float((one - other).abs().max() / (other.max() - other.min()))


@torch.no_grad()
def law_one_set_of_weights(family: str) -> float:
    """An edit through either view changes both views' logits, equally: parameter by parameter of a layer and around."""
    model = wrapped(family)
    tokens = torch.randint(5, 600, (1, 20), generator=torch.Generator().manual_seed(7))
    shared = {id(parameter) for parameter in model.bridge.parameters()}
    assert all(id(parameter) in shared for parameter in model.hf.parameters())
    before, worst = model.hf(tokens).logits, 0.0
    for view in ("hf", "bridge"):
        for number, (name, parameter) in enumerate(getattr(model, view).named_parameters()):
            if re.search(r"\.0\.", name):
                continue
            edit(parameter, seed=number, through_data=number % 2 == 0)
            plain, hooked = model.hf(tokens).logits, model.bridge(tokens)
            worst = max(worst, apart(hooked, plain))
            assert worst <= AGREEMENT, f"after an edit of {name} in {view} the views are {worst:.1e} apart"
            # Without rotary embedding a key bias adds the same to all of a query's scores, which changes nothing.
            nothing = family == "gpt2" and "attn.k" in name and name.endswith("bias")
            assert nothing or not torch.equal(plain, before), f"an edit of {name} in {view} had no effect"
            before = plain
    return worst


def edit(parameter: Tensor, seed: int, through_data: bool) -> None:
    """A small random change in place."""
    noise = 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    target = parameter.data if through_data else parameter
    target.add_(noise)


def law_names(family: str) -> None:
    """Building and using the bridge leaves names, order and bits of the plain state dict as they were."""
    model, fresh = wrapped(family), tiny_model(family).state_dict()
    used(model)
    after = model.hf.state_dict()
    assert list(after) == list(fresh)
    assert all(torch.equal(after[name], tensor) for name, tensor in fresh.items())


def law_bytes(family: str) -> None:
    """Saved, loaded and saved again the weights' files are the same bytes, also by a model that was hooked."""
    model = wrapped(family)
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        first, second, third = (Path(folder) / name for name in ("first", "second", "third"))
        tiny_model(family).save_pretrained(first)
        used(model)
        model.hf.save_pretrained(second)
        AutoModelForCausalLM.from_pretrained(second).save_pretrained(third)
        assert weights_in(first) == weights_in(second), "a hooked model saves other bytes than a fresh one"
        assert weights_in(second) == weights_in(third), "loading and saving changes bytes"


def weights_in(folder: Path) -> dict[str, str]:
    """Name and hash of each file: whole files would take minutes to set beside each other in a failure's report."""
    found = sorted(folder.glob("*.safetensors"))
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
    assert files
    return files


def used(model: Model) -> None:
    """Scores with every engine that takes the model; hooks it in any case."""
    prompts = prompts_of("yes_no", None)
    assert model.bridge is not None
    for score in (score_hooked, score_fused):
        try:
            score(model, prompts, 4, progress=False)
        except ModelError:
            continue


@torch.no_grad()
def law_left_alone(family: str) -> None:
    """Scoring leaves both views' logits, their hooks, the settings and the random state, bit for bit."""
    model, prompts = wrapped(family), prompts_of("yes_no", None)

    def state() -> tuple:
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
        return hooks, model.hf.config._attn_implementation, model.hf.training, torch.get_rng_state().tolist()

    def logits() -> list[Tensor]:
        mask = prompts.mask.long()
        return [model.hf(prompts.tokens, attention_mask=mask).logits, model.bridge(prompts.tokens, attention_mask=mask)]

    before, state_before = model.hf(prompts.tokens, attention_mask=prompts.mask.long()).logits, state()
    views = logits()
    used(model)
    assert torch.equal(before, views[0]), "hooking changed the plain view"
    assert all(torch.equal(old, new) for old, new in zip(views, logits(), strict=True))
    assert state() == state_before


LAWS: dict[str, Callable[[str], float | None]] = {
    "hooked scores": law_hooked_scores,
    "fused scores": law_fused_scores,
    "bridge logits": law_logits,
    "one set of weights": law_one_set_of_weights,
    "names": law_names,
    "bytes": law_bytes,
    "left alone": law_left_alone,
}


@dataclass(frozen=True)
class Outcome:
    """A law that held, with what it measured; or the reason why the model was refused."""

    measured: float | None = None
    refusal: str | None = None


@functools.cache
def outcome(family: str, law: str) -> Outcome:
    """What came of the law; a law that doesn't hold raises."""
    try:
        return Outcome(measured=LAWS[law](family))
    except ModelError as error:
        return Outcome(refusal=str(error))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("family", SUPPORTED)
def test_law(family: str, law: str):
    expected = ENGINE_REFUSES.get((family, law.removesuffix(" scores")))
    refusal = outcome(family, law).refusal
    if expected is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert expected in refusal


def test_every_supported_family_has_an_engine():
    refused = {family: {engine for f, engine in ENGINE_REFUSES if f == family} for family in SUPPORTED}
    assert not [family for family in SUPPORTED if refused[family] >= {"hooked", "fused"}]


@contextmanager
def one_line_refusal(words: str) -> Iterator[None]:
    with pytest.raises(ModelError, match=re.escape(words)) as caught:
        yield
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", [score_hooked, score_fused])
@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_scored_is_refused_in_one_line(family: str, engine: Callable):
    words = "doesn't support fused" if (family, engine) == ("gpt_oss", score_fused) else REFUSED[family]
    with one_line_refusal(words):
        engine(wrapped(family), prompts_of("yes_no", None), progress=False)


def test_edits_of_both_copies_at_once_are_refused():
    model = wrapped("gpt_neox")
    with torch.no_grad():
        model.bridge.blocks[1].attn.q.original_component.weight.add_(0.1)
        # Not through `model.hf`, which would carry the first edit over.
        model._hf.gpt_neox.layers[1].attention.query_key_value.weight.mul_(1.1)
    with one_line_refusal("edited both in the bridge and in the plain model"):
        _ = model.hf


@pytest.mark.parametrize("family", ["gpt2", "llama"])
# TransformerLens warns that processed weights differ from the original ones, which is what this test is about.
@pytest.mark.filterwarnings("ignore")
def test_a_processed_bridge_is_scored_alike(family: str):
    bridge = wrapped(family).bridge
    assert load_model(bridge).engine == "fused"
    bridge.enable_compatibility_mode(disable_warnings=True)
    model, prompts = load_model(bridge), prompts_of("yes_no", None)
    assert model.engine == "hooked"
    assert model.why_hooked == "TransformerLens processed its weights"
    scores, counts = score_hooked(model, prompts, 4, progress=False)
    assert torch.equal(counts, looped(family, "yes_no", None).counts)
    assert off(scores, looped(family, "yes_no", None)) <= AGREEMENT


NARROW = ("llama", "qwen2", "qwen3", "mistral", "gpt2", "gpt_neox", "phi3")


def test_bf16_scores_are_no_farther_from_fp32_than_eager_bf16():
    """On average over families and seeds; a single model's roundings fall either way."""
    ratios: dict[str, list[float]] = {"fused": [], "hooked": []}
    prompts = prompts_of("yes_no", None)
    for family in NARROW:
        for seed in range(2):
            narrow = tiny_model(family, seed).to(torch.bfloat16)
            windows = LAYER_WINDOWS.get(family, FULL)
            # The same rounded weights in fp32, so that it is the computation that is measured.
            exact = loop_over_attention(plain_eager(copy.deepcopy(narrow).float()), prompts, windows).scores
            eager = loop_over_attention(plain_eager(narrow), prompts, windows).scores
            model = load_model(narrow, tokenizer=tiny_tokenizer())
            for name, score in (("fused", score_fused), ("hooked", score_hooked)):
                found, _ = score(model, prompts, 4, progress=False)
                assert found.dtype == torch.float32
                ratios[name].append(float((found - exact).abs().mean() / (eager - exact).abs().mean()))
    for name, found in ratios.items():
        mean = math.exp(sum(map(math.log, found)) / len(found))
        assert mean <= 1.1, f"{name} is {mean:.2f} times as far from fp32 as eager bf16 is: {found}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", ["cpu", "auto"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_saved_model_is_loaded_and_scored_in_any_dtype(family: str, device: str, dtype: str, tmp_path: Path):
    with quiet_transformers():
        tiny_model(family).save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
    model, expected = load_model(tmp_path, device=device, dtype=dtype), looped(family, "yes_no", None)
    assert model.dtype == getattr(torch, dtype)
    allowed = {"float32": AGREEMENT, "bfloat16": 0.3, "float16": 0.03}[dtype]
    for score in (score_fused, score_hooked):
        scores, counts = score(model, prompts_of("yes_no", None), 4, progress=False)
        assert torch.equal(counts, expected.counts)
        assert off(scores, expected) <= allowed


def test_patterns_that_underflow_are_refused():
    """GPT-J's hooks carry patterns alone, and float16 holds none below 6e-8."""
    with one_line_refusal("the patterns underflow"):
        score_hooked(wrapped("gptj", torch.float16), prompts_of("yes_no", None), progress=False)


def table() -> list[str]:
    """The families, what is special in them, and what came of each law."""
    rows = ["| Family | Peculiarities | " + " | ".join(LAWS) + " |", "| --- " * (len(LAWS) + 2) + "|"]
    for family in SUPPORTED:
        cells = [cell(family, law) for law in LAWS]
        rows.append(f"| {family} | {PECULIARITIES[family]} | " + " | ".join(cells) + " |")
    return rows


def cell(family: str, law: str) -> str:
    found = outcome(family, law)
    if found.refusal is not None:
        return f"refused: {found.refusal.removesuffix('.')}"
    return "holds" if found.measured is None else f"holds ({found.measured:.0e})"


def refused_table() -> list[str]:
    rows = ["| Family | Peculiarities | Why it is refused |", "| --- | --- | --- |"]
    for family in REFUSED:
        with pytest.raises(ModelError) as caught:
            score_hooked(wrapped(family), prompts_of("yes_no", None), progress=False)
        rows.append(f"| {family} | {PECULIARITIES[family]} | {caught.value} |")
    return rows


INTRODUCTION = """# Model families

Made by `make families`; the tests fail where it doesn't say what they find. Each family is a tiny random model of its
real configuration class, with its peculiarities switched on. The laws are in `tests/test_families.py`:

- **hooked scores, fused scores**: each engine's scores against a plain loop over eager attention of transformers, in
  both candidate orders, with padding, with sliding windows shorter than the prompt, with a shared prefix and without.
  In brackets the largest difference, in parts of a score's absolute terms; 1e-4 is allowed.
- **bridge logits**: the hooked view's logits against plain transformers', in parts of their range; 1e-4 is allowed.
- **one set of weights**: an edit in place through either view changes both views' logits, equally.
- **names**: hooking changes neither the names nor the bits of the plain state dict.
- **bytes**: saving, loading and saving again gives the same bytes, also after hooking and scoring.
- **left alone**: scoring changes no logits, hooks, settings or random state.

Where one engine refuses a family, the other takes it.
"""

REFUSED_INTRODUCTION = """
## Refused

No engine takes these; `nasa-interp doctor` says why.
"""


def page() -> str:
    tables = ("\n".join(rows) for rows in (table(), refused_table()))
    return f"{INTRODUCTION}\n{next(tables)}\n{REFUSED_INTRODUCTION}\n{next(tables)}\n"


def test_the_table_in_the_docs_says_what_the_laws_found():
    if os.environ.get("NASA_INTERP_FAMILIES"):
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(page(), encoding="utf-8")
    # What was measured differs from machine to machine in its roundings; what came of it doesn't.
    written, found = (re.sub(r" \(\d+e[+-]\d+\)", "", text) for text in (TABLE.read_text(encoding="utf-8"), page()))
    assert written == found, "docs/families.md is out of date; run make families"
    assert set(PECULIARITIES) == set(FAMILIES)
