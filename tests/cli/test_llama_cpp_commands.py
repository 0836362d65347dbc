"""A cured model on its way to llama.cpp by commands alone: export, serve, decide at the address."""

import json

import pytest
from llama_files import llama_file, llama_tokenizer, tiny_for
from llama_server import llama_server
from test_delta import tuned

from nasa_interp import load_model
from nasa_interp.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:answer mass under:UserWarning")


def test_export_serve_decide(tmp_path, capsys):
    folder, model = tmp_path / "base", load_model(tiny_for("llama"), tokenizer=llama_tokenizer())
    base = llama_file(tmp_path / "tiny.gguf", model.hf, "llama")
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    (tmp_path / "run").mkdir()
    delta = tuned(model, projections="qo", bias=False)
    delta.save(tmp_path / "run" / "delta.safetensors")
    command = ["export", str(tmp_path / "run"), "--model", str(folder), "--format", "gguf"]
    assert main([*command, "--out", str(tmp_path / "no")]) == 1
    assert "was not loaded from a GGUF file; give one" in capsys.readouterr().err
    for format in ("gguf", "gguf-lora"):
        out = str(tmp_path / format)
        assert main([*command[:-1], format, "--base", str(base), "--out", out, "--json"]) == 0
    capsys.readouterr()
    ask = ["--data", "builtin:verify#val", "--limit", "4", "--prompt", "plain", "--json"]
    assert main(["decide", str(folder), *ask]) == 0
    before = json.loads(capsys.readouterr().out)
    found = []
    for path, adapter in ((tmp_path / "gguf" / "model.gguf", None), (base, tmp_path / "gguf-lora" / "adapter.gguf")):
        with llama_server(path, adapter) as server:
            assert main(["decide", server.url, "--model", "tiny", "--top", "600", *ask]) == 0
        found.append(json.loads(capsys.readouterr().out)["all"]["mean_logit_difference"]["value"])
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert abs(found[0] - before["all"]["mean_logit_difference"]["value"]) > 0.01
