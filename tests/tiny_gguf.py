"""Tiny GGUF files, written from tiny models as llama.cpp writes them, so that conversion is tested in a second."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import transformers
from families import grouped, tiny_tokenizer
from gguf import GGUFWriter
from transformers import PreTrainedModel

NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
}
"""A layer's weights by their names in transformers and in GGUF files."""

CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**grouped()),
    "qwen3moe": lambda: transformers.Qwen3MoeConfig(
        # transformers doesn't read the last two from the file and takes values of its own.
        **grouped(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=768, norm_topk_prob=True)
    ),
}
"""Configurations by GGUF's name of the architecture."""


def gguf_tensors(model: PreTrainedModel, kind: str) -> dict[str, np.ndarray]:
    """The model's weights as a GGUF file holds them."""
    config, state = model.config, {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
        "output.weight": state["lm_head.weight"],
    }
    for layer in range(config.num_hidden_layers):
        for name, tensor in _layer(state, f"model.layers.{layer}."):
            if kind == "llama" and name in ("attn_q.weight", "attn_k.weight"):
                heads = config.num_attention_heads if name == "attn_q.weight" else config.num_key_value_heads
                # llama.cpp interleaves the two halves that rotary embedding turns.
                tensor = tensor.reshape(heads, 2, -1, tensor.shape[-1]).swapaxes(1, 2).reshape(tensor.shape)
            tensors[f"blk.{layer}.{name}"] = tensor
    return tensors


def _layer(state: dict[str, np.ndarray], prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    for name, tensor in state.items():
        if name == f"{prefix}mlp.experts.gate_up_proj":
            gate, up = np.split(tensor, 2, axis=1)
            yield "ffn_gate_exps.weight", gate
            yield "ffn_up_exps.weight", up
        elif name.startswith(prefix):
            yield NAMES[name.removeprefix(prefix)], tensor


def write_gguf(path: Path, model: PreTrainedModel, tensors: dict[str, np.ndarray], kind: str = "llama") -> Path:
    """Writes the tensors with the model's configuration and the tiny tokenizer."""
    config, writer = model.config, GGUFWriter(str(path), kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if kind == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    else:
        writer.add_key_length(config.head_dim)
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    add_tokenizer(writer)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: GGUFWriter) -> None:
    """The tiny tokenizer, as llama.cpp keeps it."""
    tokenizer = tiny_tokenizer()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    control, normal = 3, 1
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in tokenizer.all_special_tokens else normal for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
