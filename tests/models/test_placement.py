"""Where a model is put: options that fit together, limits that hold, files that go when the model goes."""

import gc
from pathlib import Path

import pytest
import torch
from families import tiny_model
from test_model_files import one_line, saved

from nasa_interp import load_model
from nasa_interp.errors import ModelError
from nasa_interp.models.offload import offloaded_names
from nasa_interp.models.placement import Placement


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cpu", "max_memory": {"cpu": 1}}, "'cpu' and max_memory contradict"),
        ({"device": "cpu", "device_map": {"": "disk"}}, "'cpu' and device_map contradict"),
        ({"device": "cpu", "offload_folder": "x"}, "'cpu' and offload_folder contradict"),
        ({"device_map": {"": "disk"}, "max_memory": {"cpu": 1}}, "give one|leave one"),
        ({"device_map": {"": "cpu", "lm_head": "disk"}}, "'' puts the whole model there; name each part"),
        ({"device_map": "disk"}, "device map 'disk' is unknown; use auto, balanced"),
        ({"device_map": {"": "nowhere"}}, "device 'nowhere' is unknown"),
        ({"device_map": {"": "meta"}}, "nothing is computed"),
        ({"max_memory": {"gpu": "1GB"}}, "names the device 'gpu', which isn't here"),
        ({"max_memory": {"cpu": "much"}}, "'much' is no size; write bytes, or 20GiB"),
        ({"max_memory": {"cpu": -1}}, "-1 is no size"),
        ({"offload_folder": __file__}, "is a file; name a folder"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(options, words):
    with pytest.raises(ModelError, match=words) as error:
        load_model("demo", **options)
    one_line(error)


@pytest.mark.parametrize(
    ("given", "size"), [("1GiB", 2**30), ("2gb", 2 * 10**9), ("500MB", 5 * 10**8), ("0", 0), ("123", 123), (7, 7)]
)
def test_a_limit_is_bytes_or_has_a_unit(given, size):
    assert (Placement.of(max_memory={"cpu": given}).max_memory or {})["cpu"] == size


def test_a_limit_alone_means_auto_and_nothing_means_one_device():
    assert Placement.of(max_memory={"cpu": 1}).device_map == "auto"
    assert Placement.of("auto").device_map == "auto"
    assert Placement.of(device_map={"": "disk"}).device_map == {"": "disk"}
    assert Placement.of("cpu").device_map is None


def test_auto_stays_under_its_limit(tmp_path):
    folder = saved(tiny_model("llama"), tmp_path / "tiny")
    whole = load_model(folder)
    size = sum(p.numel() * p.element_size() for p in whole.hf.parameters())
    model = load_model(folder, max_memory={"cpu": int(0.7 * size)})
    held = sum(p.numel() * p.element_size() for p in model.hf.parameters() if not p.is_meta)
    assert 0 < held <= 0.7 * size
    assert 0 < len(offloaded_names(model.hf)) < sum(1 for _ in model.hf.parameters())


def test_parts_without_a_place_are_named(tmp_path):
    folder = saved(tiny_model("llama"), tmp_path / "tiny")
    with pytest.raises(ModelError, match=r"puts lm_head\.weight nowhere; name those parts too"):
        load_model(folder, device_map={"model": "disk"})


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_weights_written_to_disk_are_each_models_own_and_go_with_it(tmp_path):
    """Two models with the same names in one folder: the second must not write over the first's weights."""
    kept, tokens = tmp_path / "off", torch.arange(5, 30)[None]
    placed = {"device_map": {"": "disk"}, "offload_folder": kept}
    found = []
    for number in range(2):
        plain = tiny_model("mixtral")
        with torch.no_grad():
            plain.model.layers[0].mlp.gate.weight += number
            plain.model.layers[1].mlp.experts.down_proj += number
        expected = plain(tokens).logits
        found.append((load_model(saved(plain, tmp_path / str(number)), dtype="float32", **placed), expected))
    assert len(files(kept)) == 2 * len(files(kept)) / len(list(kept.iterdir()))
    for model, expected in found:
        assert torch.equal(model.hf(tokens).logits, expected)
    del model, found
    gc.collect()
    assert not list(kept.iterdir())


def test_no_folder_is_left_where_nothing_is_written(tmp_path):
    folder = saved(tiny_model("llama"), tmp_path / "tiny")
    model = load_model(folder, device_map={"": "disk"}, offload_folder=tmp_path / "off")
    assert offloaded_names(model.hf)
    assert not list((tmp_path / "off").iterdir())
