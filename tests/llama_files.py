"""Tiny models as GGUF files that llama.cpp runs, one an architecture, with every weight in fp32.

Written from llama.cpp's own rules, apart from the code that is tested: the gguf package's names, the permutation of
Llama's converter, GPT-2's transposed matrices, Gemma's norms plus one.
"""

from pathlib import Path

import numpy as np
import torch
import transformers
from families import gpt_base, grouped, tiny_tokenizer
from gguf import MODEL_ARCH_NAMES, GGUFWriter, get_tensor_name_map
from tiny_gguf import add_tokenizer
from transformers import PreTrainedModel

WIDE = {"hidden_size": 64, "head_dim": 16}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**grouped(**WIDE, attention_bias=True)),
    "qwen2": lambda: transformers.Qwen2Config(**grouped(hidden_size=64)),
    "qwen3": lambda: transformers.Qwen3Config(**grouped(hidden_size=64, head_dim=32)),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **grouped(**WIDE, query_pre_attn_scalar=16, sliding_window=512, num_hidden_layers=3)
    ),
    "phi3": lambda: transformers.Phi3Config(**grouped(hidden_size=64)),
    "gpt2": lambda: transformers.GPT2Config(**gpt_base(n_embd=64)),
}
"""Configurations by llama.cpp's name of the architecture."""


def tiny_for(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random model of this architecture, with random biases and norms."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind](), dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        # One candidate is likelier than any piece of a character, for which llama.cpp gives no log-probabilities.
        output, tokenizer = model.get_output_embeddings().weight, tiny_tokenizer()
        pieces = [token for token in range(len(tokenizer)) if "\ufffd" in tokenizer.decode(token)]
        yes, no = tokenizer(" Yes No", add_special_tokens=False)["input_ids"]
        output[pieces] = 0.0
        output[yes] *= 3.0
        output[no] = -output[yes]
    model.config.name_or_path = f"tiny/{kind}"
    return model.eval()


def llama_file(path: Path, model: PreTrainedModel, kind: str) -> Path:
    """The model as llama.cpp's converter would write it, with the tiny tokenizer."""
    config, writer = model.config, GGUFWriter(str(path), kind)
    _settings(writer, config, kind)
    add_tokenizer(writer)
    writer.add_tokenizer_pre("gpt-2")
    names = get_tensor_name_map({v: k for k, v in MODEL_ARCH_NAMES.items()}[kind], config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for parameter, tensor in model.state_dict().items():
        if not (tied and parameter == "lm_head.weight"):
            name = names.get_name(parameter, (".weight", ".bias"))
            writer.add_tensor(name, _as_stored(tensor.numpy(), name, kind, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _settings(writer: GGUFWriter, config: transformers.PreTrainedConfig, kind: str) -> None:
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_vocab_size(config.vocab_size)
    writer.add_head_count(heads)
    if kind == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    if kind == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    # Gemma's rotary bases differ by layer; all of these layers are local ones, whose base llama.cpp knows.
    writer.add_rope_freq_base(1e6 if kind == "gemma3" else config.rope_parameters["rope_theta"])


def _as_stored(values: np.ndarray, name: str, kind: str, config: transformers.PreTrainedConfig) -> np.ndarray:
    part = name.split(".")[2] if name.startswith("blk.") else ""
    if kind == "llama" and part in ("attn_q", "attn_k"):
        heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        values = halves.swapaxes(1, 2).reshape(values.shape)
    if kind == "gpt2" and values.ndim == 2 and part:
        values = values.T
    if kind == "gemma3" and name.endswith("norm.weight"):
        values = values + 1
    return np.ascontiguousarray(values)


def llama_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """The tokenizer that goes with the files."""
    return tiny_tokenizer()
