"""llama.cpp's own server in a process of its own, which can be killed: `with llama_server(path) as server:`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = """
import sys, xllamacpp
path, port, adapter = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx, params.n_parallel = path, int(port), 512 if "tiny" in path else 2048, 1
params.n_gpu_layers, params.warmup = 0, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
if adapter:
    lora = xllamacpp.CommonAdapterLoraInfo()
    lora.path, lora.scale = adapter, 1.0
    params.lora_adapters = [lora]
server = xllamacpp.Server(params)
print("ADDRESS", server.listening_address, flush=True)
sys.stdin.read()
"""


@dataclass
class LlamaServer:
    """A running server: its address with the version, and its process."""

    url: str
    process: subprocess.Popen

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].removesuffix("/v1"))


@contextmanager
def llama_server(path: Path, adapter: Path | None = None, port: int = 0) -> Iterator[LlamaServer]:
    """Serves a GGUF file on this machine, with one thread and keys and values in fp32."""
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the extra dev: pip install -e '.[dev]'")
    command = [sys.executable, "-c", SCRIPT, str(path), str(port), str(adapter or "")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            line = next((line for line in process.stdout if line.startswith("ADDRESS")), "")
            assert line, f"llama.cpp did not start with {path}"
            yield LlamaServer(f"{line.split()[1]}/v1", process)
        finally:
            process.kill()
