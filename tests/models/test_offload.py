"""Models with weights on disk: the same answers and the same hash as in memory, and clear words where they don't do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families import QUESTIONS, tiny_model
from safetensors.torch import load_file, save_file
from test_model_files import INDEX, SAFETENSORS, one_line, saved

from nasa_interp import ablation_effect, align_heads, attention_patterns, build_prompts, decide, load_model, score_heads
from nasa_interp.deltas import HeadDelta, export
from nasa_interp.errors import ModelError
from nasa_interp.heads import HeadList
from nasa_interp.models import hashing
from nasa_interp.models.offload import Offloaded, find_offloaded, offloaded_names
from nasa_interp.models.slice_values import read_slices
from nasa_interp.scoring.fused import score_fused

QUIET = {"progress": False, "draws": 20}
PARTS = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
A_LAYER = dict.fromkeys(PARTS, "cpu") | {"model.layers.1": "disk"}
PLACES = {
    "everything on disk": {"device_map": {"": "disk"}},
    "a layer on disk": {"device_map": A_LAYER},
    "auto": {"max_memory": {"cpu": "240KB"}},
}

pytestmark = pytest.mark.filterwarnings("ignore:answer mass")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with tied embeddings, in shards."""
    made = saved(tiny_model("llama_tied"), tmp_path_factory.mktemp("sharded") / "tiny", max_shard_size="100KB")
    assert len(set(json.loads((made / INDEX).read_text())["weight_map"].values())) > 2
    return made


@pytest.fixture(params=PLACES)
def placed(folder, request):
    """The model with weights on disk, and the same in memory."""
    dtype = "float32"
    on_disk = load_model(folder, dtype=dtype, **PLACES[request.param])
    assert offloaded_names(on_disk.hf)
    return on_disk, load_model(folder, dtype=dtype)


def test_every_verb_answers_as_in_memory(placed):
    whole = placed[1]
    reports = [decide(model, QUESTIONS, **QUIET) for model in placed]
    assert np.array_equal(*(report.logit_differences for report in reports))
    scores = [score_heads(model, QUESTIONS, **QUIET) for model in placed]
    assert np.array_equal(*(table.values for table in scores), equal_nan=True)
    effects = [ablation_effect(model, QUESTIONS, ["0.1", "1.2"], **QUIET) for model in placed]
    assert effects[0].mean_logit_difference_change == effects[1].mean_logit_difference_change
    runs = [scores[0].run, effects[0].changed.run]
    assert [run.model_hash for run in runs if run is not None] == [whole.weights_hash()] * 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_in_any_dtype_and_layout(family, dtype, tmp_path):
    """Other layouts, weights that are written anew, and a placement without a single weight in memory."""
    folder = saved(tiny_model(family), tmp_path / "tiny")
    on_disk = load_model(folder, dtype=dtype, device_map={"": "disk"}, offload_folder=tmp_path / "off")
    whole = load_model(folder, dtype=dtype)
    assert all(parameter.is_meta for parameter in on_disk.hf.parameters())
    assert on_disk.weights_hash() == whole.weights_hash()
    assert np.array_equal(*(decide(model, QUESTIONS, **QUIET).logit_differences for model in (on_disk, whole)))


def test_weights_of_other_files_than_safetensors(tmp_path):
    folder = saved(tiny_model("llama"), tmp_path / "tiny")
    whole = load_model(folder).weights_hash()
    torch.save(load_file(folder / SAFETENSORS), folder / "pytorch_model.bin")
    (folder / SAFETENSORS).unlink()
    model = load_model(folder, dtype="float32", device_map={"": "disk"}, offload_folder=tmp_path / "off")
    assert model.weights_hash() == whole


@pytest.mark.parametrize("way", ["disk", "cpu"])
def test_the_users_own_offloading_is_read_too(way, tmp_path):
    """accelerate's own files, and weights that wait in the processor's memory."""
    from accelerate import cpu_offload, disk_offload

    whole, hf = load_model(saved(tiny_model("llama"), tmp_path / "tiny")), tiny_model("llama")
    if way == "disk":
        disk_offload(hf, tmp_path / "off")
    else:
        cpu_offload(hf)
    assert load_model(hf, tokenizer=whole.tokenizer).weights_hash() == whole.weights_hash()


def test_the_hash_reads_each_weight_once_and_then_only_looks_at_the_files(folder, monkeypatch):
    model, read = load_model(folder, device_map={"": "disk"}), []
    inner = Offloaded.read
    monkeypatch.setattr(hashing.Offloaded, "read", lambda place: read.append(place.name) or inner(place))
    digest = model.weights_hash()
    # Tied weights have two names.
    assert sorted(read) == sorted(model.hf.state_dict())
    assert model.weights_hash() == digest
    assert len(read) == len(model.hf.state_dict())


def test_the_hash_sees_a_changed_file_and_a_changed_weight_in_memory(tmp_path):
    folder = saved(tiny_model("llama"), tmp_path / "tiny")
    model = load_model(folder, device_map=A_LAYER)
    hashes = [model.weights_hash()]
    with torch.no_grad():
        model.hf.model.layers[0].self_attn.q_proj.weight[0, 0] += 1
    hashes.append(model.weights_hash())
    tensors = load_file(folder / SAFETENSORS)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
    save_file(tensors, folder / "new", {"format": "pt"})
    os.replace(folder / "new", folder / SAFETENSORS)
    hashes.append(model.weights_hash())
    assert len(set(hashes)) == 3
    (folder / SAFETENSORS).unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors can't be read any more"):
        model.weights_hash()


def test_a_weight_that_nothing_fetches_has_no_hash():
    model = tiny_model("llama")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.to("meta"))
    assert find_offloaded(model, "lm_head.weight") is None
    assert hashing.hash_weights(model, {}) == ""


def test_the_note_counts_what_is_elsewhere(folder):
    model = load_model(folder, device_map={"": "disk"})
    total, notes = sum(1 for _ in model.hf.named_parameters(remove_duplicate=False)), model.state_notes()
    assert notes == (f"{total} of {total} weights lie outside the memory that computes (offloaded)",)
    run = decide(model, QUESTIONS, **QUIET).run
    assert run is not None
    assert notes[0] in run.notes
    # Tied weights are two objects once they were fetched.
    assert model.state_notes() == notes


def test_the_cross_check_with_hooks_says_why_it_was_left_out(folder):
    scores = score_heads(load_model(folder, device_map={"": "disk"}), QUESTIONS, **QUIET)
    said = [note for note in scores.run.notes if "hooked" in note]
    assert said
    assert said[0].startswith("not checked against the hooked engine: the hooked view needs all weights of")


@pytest.fixture
def delta(folder):
    whole = load_model(folder)
    before = read_slices(whole, whole.head_slices(0, 1, "q"))
    after = tuple(values + 1 for values in before.values())
    return HeadDelta(whole.weights_hash(), "x", HeadList.of(["0.1"]), tuple(before), tuple(before.values()), after)


NEED_ALL = {
    "alignment": (lambda model, delta, folder: align_heads(model, ["0.1"], QUESTIONS, QUESTIONS), "tuning needs"),
    "export": (lambda model, delta, folder: export(model, delta, folder / "out"), "export needs"),
    "a delta": (lambda model, delta, folder: delta.apply(model), "a change of heads needs"),
    "the bridge": (lambda model, delta, folder: model.bridge, "the hooked view needs"),
    "patterns": (
        lambda model, delta, folder: attention_patterns(model, build_prompts(model, QUESTIONS[:1], "yes_no"), ["0.1"]),
        "the hooked view needs",
    ),
    "the hooked engine": (
        lambda model, delta, folder: score_heads(model, QUESTIONS, engine="hooked", **QUIET),
        "the hooked view needs",
    ),
}


@pytest.mark.parametrize("what", NEED_ALL)
def test_what_needs_all_weights_in_memory_says_so_in_one_line(what, placed, delta, tmp_path):
    call, words = NEED_ALL[what]
    with pytest.raises(ModelError, match=rf"{words} all weights of .* in memory, and \d+ of them are offl") as error:
        call(placed[0], delta, tmp_path)
    one_line(error)
    assert not list(tmp_path.iterdir())


MEASURED = """
import sys
import nasa_interp as ni
import transformers.models.llama.modeling_llama
from pathlib import Path

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

questions = ni.load_questions("builtin:verify#val", 2)
decide, before = ni.decide, anonymous()
model = ni.load_model("demo", dtype="float32", device_map={"": "disk"})
most = []
for layer in model.hf.model.layers:
    layer.mlp.down_proj.register_forward_hook(lambda *args: most.append(anonymous()))
model.hf.lm_head.register_forward_hook(lambda *args: most.append(anonymous()))
digest = model.weights_hash()
decide(model, questions, order="yes_no", draws=10, progress=False)
print(max(most) - before, digest)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc/self/status says what memory is anonymous")
def test_everything_on_disk_takes_less_than_a_third_of_the_models_memory(demo):
    """In a process of its own, looked at while parts of the model run; weights that are copied would take all of it."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", MEASURED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown, digest = done.stdout.split()
    size = sum(4 * parameter.numel() for parameter in demo.hf.parameters())
    assert int(grown) < size / 3
    assert digest == demo.weights_hash()


@pytest.mark.parametrize("place", ["every other layer", "everything", "auto"])
def test_the_embedded_model_scores_as_in_memory(place, demo):
    parts = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    layers = {f"model.layers.{number}": "disk" if number % 2 else "cpu" for number in range(demo.n_layers)}
    options = {
        "every other layer": {"device_map": layers | dict.fromkeys(parts, "cpu")},
        "everything": {"device_map": {"": "disk"}},
        "auto": {"max_memory": {"cpu": "250MB"}},
    }[place]
    model = load_model("demo", dtype="float32", **options)
    assert model.weights_hash() == demo.weights_hash()
    found, whole = (score_fused(each, build_prompts(each, QUESTIONS[:2], "yes_no"))[0] for each in (model, demo))
    assert torch.equal(found, whole)
