"""Exports are loaded back by the plain libraries and give the tuned model's logits; the model stays as it was."""

import ast
import copy
import importlib
import json
from dataclasses import replace

import families
import pytest
import schemas
import torch
from huggingface_hub import ModelCard, metadata_load
from peft import PeftModel
from safetensors.torch import load_file
from test_delta import HEADS, TOKENS, fresh, logits, one_thread, tuned  # noqa: F401 (the fixture)
from transformers import AutoModelForCausalLM, AutoTokenizer

from nasa_interp import load_model
from nasa_interp.deltas.delta import HeadDelta
from nasa_interp.deltas.formats import export
from nasa_interp.deltas.license import without_folders
from nasa_interp.deltas.lora import lora_factors
from nasa_interp.errors import DeltaError
from nasa_interp.models import Model
from nasa_interp.models.slice_values import read_slices, write_slices
from nasa_interp.models.slices import head_slices

# The package's name for it is the function.
exporting = importlib.import_module("nasa_interp.deltas.formats")


def plain(family: str = "llama", dtype: torch.dtype = torch.float32) -> Model:
    """A tiny model whose tokenizer survives AutoTokenizer, which for Qwen 2 takes the family's own class."""
    model = fresh(family, dtype)
    if family == "qwen2":
        from transformers import Qwen2Tokenizer

        own = json.loads(model.tokenizer.backend_tokenizer.to_str())["model"]
        merges = [tuple(pair) for pair in own["merges"]]
        model.tokenizer = Qwen2Tokenizer(vocab=own["vocab"], merges=merges, chat_template=families.CHATML)
    return model


def agree(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def all_logits(hf) -> torch.Tensor:
    with torch.no_grad():
        return hf(TOKENS).logits


@pytest.mark.parametrize("family", families.SUPPORTED)
def test_hf(family, tmp_path):
    model = plain(family)
    delta, base, config = tuned(model), model.weights_hash(), copy.deepcopy(model.hf.config.to_dict())
    folder = export(model, delta, tmp_path / "out", verify=False)
    assert model.weights_hash() == base
    assert model.hf.config.to_dict() == config
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    with delta.applied(model):
        assert agree(all_logits(loaded), logits(model))
        assert Model("x", loaded, model.tokenizer).weights_hash() == model.weights_hash()
    assert not agree(all_logits(loaded), logits(model), 1e-3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == model.tokenizer.chat_template
    assert tokenizer("Yes or No.").input_ids == model.tokenizer("Yes or No.").input_ids
    # The delta in the subfolder undoes the export.
    again = load_model(folder)
    HeadDelta.load(folder / "nasa_interp" / "delta.safetensors").revert(again)
    assert again.weights_hash() == base


# PEFT 0.21 asks transformers for a property that it warns of.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("family", families.SUPPORTED)
def test_peft(family, tmp_path):
    model = plain(family)
    # Two heads in one layer and one in the other: modules of different rank.
    delta, base = tuned(model, ("0.1", "0.3", "1.2"), bias=False), copy.deepcopy(model.hf)
    folder = export(model, delta, tmp_path / "out", "peft", verify=False)
    assert model.weights_hash() == delta.base_hash
    with delta.applied(model):
        expected = logits(model)
    assert not agree(all_logits(base), expected, 1e-3)
    loaded = PeftModel.from_pretrained(base, str(folder)).eval()
    assert agree(all_logits(loaded), expected)
    assert agree(all_logits(loaded.merge_and_unload()), expected)


@pytest.mark.parametrize("format", ["hf", "peft", "delta"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen2", "phi3", "falcon"])
def test_every_export_verifies_itself_and_leaves_the_model_as_it_was(family, format, tmp_path):
    model = plain(family)
    delta = tuned(model, bias=False)
    asked = [parameter.requires_grad for parameter in model.hf.parameters()]
    export(model, delta, tmp_path / "one", format)
    assert model.weights_hash() == delta.base_hash
    with delta.applied(model):
        tuned_hash = model.weights_hash()
        export(model, delta, tmp_path / "two", format)
        assert model.weights_hash() == tuned_hash
    assert [parameter.requires_grad for parameter in model.hf.parameters()] == asked
    one, two = (
        {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (tmp_path / "one", tmp_path / "two")
    )
    assert one.keys() == two.keys()
    changed = {str(path) for path in one if one[path] != two[path]}
    assert changed <= {"README.md"}  # its title is the folder's name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("format", ["hf", "peft", "delta"])
def test_half_precision(format, tmp_path):
    model = plain(dtype=torch.bfloat16)
    delta = tuned(model, bias=False)
    folder = export(model, delta, tmp_path / "out", format)
    if format == "peft":
        tensors = load_file(folder / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    with delta.applied(model):
        if format == "hf":
            assert load_model(folder, dtype="auto").weights_hash() == model.weights_hash()


def test_the_delta_format_is_the_delta(tmp_path):
    model = plain()
    delta = tuned(model)
    folder = export(model, delta, tmp_path / "out", "delta")
    assert HeadDelta.load(folder / "delta.safetensors") == delta


@pytest.mark.parametrize("outputs", [True, False])
def test_the_factors_of_a_change(outputs):
    index, change = (4, 1, 2), torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    dense = torch.zeros(5, 6)
    for row, place in enumerate(index):
        dense[place] = change[row]
    change, dense = (change, dense) if outputs else (change.T, dense.T)
    a, b = lora_factors(change, index, 5, outputs)
    assert torch.equal(b @ a, dense)


def test_a_lora_carries_no_biases(tmp_path):
    model = plain("gpt2")
    with pytest.raises(DeltaError, match=r"changes transformer\.h\.0\.attn\.c_attn\.bias.*'hf' or 'delta'"):
        export(model, tuned(model, bias=True), tmp_path / "out", "peft")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["hf", "peft", "delta"])
def test_an_export_that_loads_back_otherwise_is_not_kept(format, tmp_path, monkeypatch):
    model = plain()
    delta, write = tuned(model, bias=False), exporting._write

    def another(model, delta, part, exported):
        write(model, delta.scaled(0.9), part, exported)

    monkeypatch.setattr(exporting, "_write", another)
    with pytest.raises(DeltaError, match="not kept"):
        export(model, delta, tmp_path / "out", format)
    assert not list(tmp_path.iterdir())
    assert model.weights_hash() == delta.base_hash
    export(model, delta, tmp_path / "out", format, verify=False)


def test_logits_that_differ_are_noticed(tmp_path, monkeypatch):
    """Weights may be right and the configuration lost."""
    model = plain()
    save = exporting._save_pretrained

    def lose(model, part):
        save(model, part)
        config = json.loads((part / "config.json").read_text())
        (part / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1.0}))

    monkeypatch.setattr(exporting, "_save_pretrained", lose)
    with pytest.raises(DeltaError, match="of the largest one away"):
        export(model, tuned(model), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_transformers_reads_otherwise_is_noticed(tmp_path):
    model = fresh("qwen2")
    with pytest.raises(DeltaError, match="AutoTokenizer reads the exported"):
        export(model, tuned(model), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_folders_and_formats_that_can_not_be(tmp_path):
    model = plain()
    delta = tuned(model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DeltaError, match="full is not empty"):
        export(model, delta, tmp_path / "full", "delta")
    with pytest.raises(DeltaError, match="is a file"):
        export(model, delta, tmp_path / "full" / "a.txt", "delta")
    with pytest.raises(DeltaError, match="no export format 'onnx'; use one of hf, peft, delta"):
        export(model, delta, tmp_path / "new", "onnx")
    with pytest.raises(DeltaError, match="made for"):
        export(fresh(seed=1), delta, tmp_path / "new", "delta")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "empty", "full"]
    export(model, delta, tmp_path / "empty", "delta")
    export(model, delta, tmp_path / "deep" / "new", "delta")
    assert (tmp_path / "deep" / "new" / "delta.safetensors").exists()


def test_marks_of_a_quantized_file_are_left_out_and_come_back(tmp_path):
    model = plain()
    marks, quantizer = {"quant_method": "gguf"}, object()
    model.hf.config.quantization_config, model.hf.hf_quantizer = marks, quantizer
    folder = export(model, tuned(model), tmp_path / "out")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert model.hf.config.quantization_config is marks
    assert model.hf.hf_quantizer is quantizer


def test_the_card_says_what_was_changed_and_measured(tmp_path):
    model = plain()
    model.license = "mit"
    log = {
        "rate": 3e-4,
        "steps": {"accepted": 7},
        "losses": list(range(40)),
        "measured": {"accuracy": {"before": 0.5, "after": 0.8125}, "auc|roc": {"before": 0.9, "after": float("nan")}},
    }
    delta = tuned(model, ["0.1", "1.2"], "qk", bias=False, log=log)
    folder = export(model, delta, tmp_path / "mine", "peft", notes="Tuned on a Monday.")
    card, header = (folder / "README.md").read_text(), metadata_load(folder / "README.md")
    assert header["license"] == "mit"
    assert header["base_model"] == "tiny/llama"
    assert header["library_name"] == "peft"
    assert "yes-no-bias" in header["tags"]
    with delta.applied(model):
        tuned_hash = model.weights_hash()
    for said in (
        "| 0.1 | q, k | 0.0 |",
        "| 1.2 | q, k | 1.3 |",
        f"{delta.n_changed:,} weights in 4 slices: {delta.share(model):.4%} of the model.",
        delta.base_hash,
        tuned_hash,
        "| accuracy | 0.5 | 0.8125 |",
        "| auc\\|roc | 0.9 | not measured |",
        "| rate | 0.0003 |",
        "| steps.accepted | 7 |",
        "| losses | 40 entries |",
        "Tuned on a Monday.",
        "## Limits",
        "## Intended use",
        "## How to undo it",
    ):
        assert said in card, said
    assert "licensed under: mit" in (folder / "LICENSE").read_text()
    found = json.loads((folder / "nasa_interp" / "export.json").read_text())
    schemas.check(found)
    assert found["log"] == delta.log
    assert found["heads"]["0.1"] == {"projections": ["q", "k"], "shared_with": ["0.0"]}
    assert (found["base_hash"], found["result_hash"]) == (delta.base_hash, tuned_hash)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/John Smith/data/x.jsonl", "x.jsonl"),
        ("C:\\Users\\jo\\x.jsonl", "x.jsonl"),
        ("../../home/u/secret/x.jsonl", "x.jsonl"),
        ("csv:~/mine/x.csv#val", "csv:x.csv#val"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("builtin:verify#val, 1 / 2, and/or data/x.jsonl", "builtin:verify#val, 1 / 2, and/or data/x.jsonl"),
    ],
)
def test_paths_of_a_machine_are_cut_down(text: str, left: str) -> None:
    assert without_folders({"a": [text]}) == {"a": [left]}


def test_names_stay_inside_their_quotes(tmp_path) -> None:
    """A base's name comes from a file that may be someone else's."""
    model = plain()
    delta = replace(tuned(model, bias=False), base_model='x"); import os; ("')
    card = (export(model, delta, tmp_path / "out", "delta") / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert "import os" not in {ast.unparse(node) for node in ast.parse(code).body}


def test_the_card_reads_what_align_heads_logs(tmp_path):
    """Validation before and after, heads that were tried and rolled back, paths of the machine."""
    model = plain()
    log = {
        "val": "strategyqa:/home/me/secret/dev.json",
        "docs": "https://example.org/a/b",
        "base": {"accuracy": 0.5, "imbalance": {"yes_no": 0.5, "no_yes": 0.25}, "nas": None},
        "tuned": {"accuracy": 0.75, "imbalance": {"yes_no": 0.0625, "no_yes": -0.125}, "nas": None},
    }
    delta = tuned(model, log=log, bias=False)
    kept = tuple(
        a if ".layers.0." in s.parameter else b for s, b, a in zip(delta.slices, delta.before, delta.after, strict=True)
    )
    delta = HeadDelta(delta.base_hash, delta.base_model, delta.heads, delta.slices, delta.before, kept, delta.log)
    folder = export(model, delta, tmp_path / "out", "peft")
    card = (folder / "README.md").read_text()
    for said in (
        "weights of 1 attention head changed",
        "| 1.2 | unchanged | none |",
        "| accuracy | 0.5 | 0.75 |",
        "| imbalance.no_yes | 0.25 | -0.125 |",
        "| nas | not measured | not measured |",
        "new questions will look worse",
        "| val | strategyqa:dev.json |",
        "| docs | https://example.org/a/b |",
    ):
        assert said in card, said
    assert "secret" not in (folder / "nasa_interp" / "export.json").read_text()
    modules = load_file(folder / "adapter_model.safetensors")
    assert all(".layers.0." in name for name in modules)
    with pytest.raises(DeltaError, match="changes nothing"):
        export(model, delta.scaled(0), tmp_path / "none", "peft")


@pytest.mark.parametrize(("imbalance", "bias", "answer"), [(0.5, "negative", "No"), (-0.5, "positive", "Yes")])
def test_the_card_names_the_bias_that_was_measured(tmp_path, imbalance, bias, answer):
    model = plain()
    log = {"base": {"imbalance": {"yes_no": imbalance, "no_yes": 0.0}}, "tuned": {}}
    folder = export(model, tuned(model, log=log, bias=False), tmp_path / "out", "delta")
    assert f"to lower its {bias} bias: answering {answer} too often" in (folder / "README.md").read_text()
    assert f"{bias}-bias" in metadata_load(folder / "README.md")["tags"]


def test_the_card_tells_the_hub_what_was_measured(tmp_path):
    """As `model-index`: the numbers after the change, those that are numbers alone, by data."""
    log = {
        "measured": {"accuracy": {"before": 0.5, "after": 0.75}, "auc": {"before": 0.5, "after": float("nan")}},
        "measured_on": "demo, /home/me/mine.jsonl, 8 questions",
        "base": {"accuracy": 0.5, "imbalance": {"yes_no": 0.5}},
        "tuned": {"accuracy": 0.625, "imbalance": {"yes_no": -0.125}, "nas": None},
    }
    model = plain()
    card = ModelCard.load(export(model, tuned(model, log=log, bias=False), tmp_path / "mine", "delta") / "README.md")
    found = [(each.dataset_name, each.metric_type, each.metric_value) for each in card.data.eval_results]
    apart, val = "demo, mine.jsonl, 8 questions", "the validation questions, by which tuning was steered"
    assert card.data.model_name == "mine"
    assert found == [(apart, "accuracy", 0.75), (val, "accuracy", 0.625), (val, "imbalance yes_no", -0.125)]
    bare = ModelCard.load(export(model, tuned(model, bias=False), tmp_path / "bare", "delta") / "README.md")
    assert bare.data.eval_results is None


def test_a_model_goes_out_as_it_is(tmp_path):
    model = plain()
    folder = export(model, None, tmp_path / "base")
    assert load_model(folder).weights_hash() == model.weights_hash()
    card = (folder / "README.md").read_text()
    assert "as it is, written by nasa_interp" in card
    assert not any(word in card for word in ("changed", "undo", "bias"))
    assert [path.name for path in (folder / "nasa_interp").iterdir()] == ["export.json"]
    content = json.loads((folder / "nasa_interp" / "export.json").read_text())
    schemas.check(content)
    assert content["result_hash"] == content["base_hash"] == model.weights_hash()
    assert HeadDelta.nothing(model).n_changed == 0
    with pytest.raises(DeltaError, match="has no change to write as 'peft'"):
        export(model, None, tmp_path / "other", "peft")


def test_a_card_without_measures_or_licence_says_so(tmp_path):
    model = plain()
    folder = export(model, tuned(model), tmp_path / "out", "delta")
    card = (folder / "README.md").read_text()
    assert "**Not measured.**" in card
    assert "licence is not known" in card
    assert "license" not in metadata_load(folder / "README.md")
    assert not (folder / "LICENSE").exists()


def test_the_base_folder_s_licence_travels_and_its_place_does_not(tmp_path):
    source = tmp_path / "secret" / "base"
    model = plain()
    model.hf.save_pretrained(source)
    model.tokenizer.save_pretrained(source)
    (source / "LICENSE.txt").write_text("All of it.")
    (source / "NOTICE").write_text("And this.")
    (source / "README.md").write_text("---\nlicense: bsd-3-clause\n---\nA model.\n")
    loaded = load_model(source)
    folder = export(loaded, tuned(loaded), tmp_path / "out")
    assert (folder / "LICENSE.txt").read_text() == "All of it."
    assert (folder / "NOTICE").read_text() == "And this."
    header = metadata_load(folder / "README.md")
    assert header["license"] == "bsd-3-clause"
    assert "base_model" not in header
    assert "# out\n\n`base` with weights of 2 attention heads" in (folder / "README.md").read_text()
    for name in ("README.md", "config.json", "nasa_interp/export.json"):
        assert "secret" not in (folder / name).read_text(), name
    # An export of an export still knows the licence.
    again = load_model(folder)
    assert metadata_load(export(again, tuned(again), tmp_path / "two", "delta") / "README.md")["license"]


def test_the_embedded_model(demo, tmp_path):
    heads = ("17.7", "22.8")
    before = read_slices(demo, [head_slices(demo.hf, *map(int, head.split(".")))[0] for head in heads])
    base = demo.weights_hash()
    write_slices(demo, {piece: value * 1.5 for piece, value in before.items()})
    delta = HeadDelta.of(demo, base, heads, before)
    delta.revert(demo)
    folder = export(demo, delta, tmp_path / "out")
    assert demo.weights_hash() == base
    loaded = load_model(folder)
    tokens, mask = torch.tensor([demo.tokenizer("Is 2 + 2 = 4?").input_ids]), torch.ones(1, 1, dtype=torch.bool)
    mask = mask.expand(tokens.shape)
    with delta.applied(demo, check=False):
        assert agree(loaded.answer_logits(tokens, mask), demo.answer_logits(tokens, mask))
    assert loaded.tokenizer.chat_template == demo.tokenizer.chat_template
    header = metadata_load(folder / "README.md")
    assert header["license"] == "apache-2.0"
    card = (folder / "README.md").read_text()
    assert "not those of the\nunquantized" in card or "not those of the unquantized" in card
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert json.loads((folder / "nasa_interp" / "export.json").read_text())["base_hash"] == base
