"""A tiny Llama in which one head copies "No" by construction: the positive control of all that ranks heads."""

import families
import torch
import transformers

from nasa_interp import load_model
from nasa_interp.heads import Head
from nasa_interp.models import Model

PLANTED = Head(1, 2)

# Dimensions of the residual stream that only the planted head's circuit uses: a constant, the marker of the
# instruction's "No", and what the head writes for the unembedding to read.
CONSTANT, MARKER, WRITTEN = 0, 1, 2
# The slowest rotary pair of a head of 12: over a prompt it turns by 0.03, so the head attends wherever "No" stands.
SLOW = 5


@torch.no_grad()
def planted_model(seed: int = 0) -> Model:
    """Three layers of four heads with small random weights, and head 1.2 written by hand.

    Every token's embedding holds a constant, which is the head's query; the embedding of " No" alone holds a marker,
    which is the head's key and its value. So it attends to the instruction's No whatever the question is, and what it
    writes raises logit(No) and nothing else.
    """
    tokenizer = families.tiny_tokenizer()
    config = transformers.LlamaConfig(
        **families.base(
            num_hidden_layers=3, num_key_value_heads=4, intermediate_size=64, initializer_range=0.1,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        )
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    embedding, unembedding = hf.get_input_embeddings().weight, hf.get_output_embeddings().weight
    reserved = [CONSTANT, MARKER, WRITTEN]
    embedding[:, reserved], unembedding[:, reserved] = 0.0, 0.0
    for layer in hf.model.layers:
        for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
            module.weight[reserved] = 0.0
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(layer.self_attn, name).weight[:, reserved] = 0.0
        for module in (layer.mlp.gate_proj, layer.mlp.up_proj):
            module.weight[:, reserved] = 0.0
    (inside,) = tokenizer(" No", add_special_tokens=False)["input_ids"]
    (answer,) = tokenizer("No", add_special_tokens=False)["input_ids"]
    embedding[:, CONSTANT], embedding[inside, MARKER] = 1.0, 3.0
    unembedding[answer, WRITTEN] = 2.0
    _write_head(hf.model.layers[PLANTED.layer].self_attn, PLANTED.index, hf.config.head_dim)
    return load_model(hf, tokenizer=tokenizer)


def _write_head(attention: torch.nn.Module, index: int, d_head: int) -> None:
    rows = slice(index * d_head, (index + 1) * d_head)
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(attention, name).weight[rows] = 0.0
    attention.o_proj.weight[:, rows] = 0.0
    start = rows.start
    attention.q_proj.weight[start + SLOW, CONSTANT] = 2.0
    attention.k_proj.weight[start + SLOW, MARKER] = 2.0
    attention.v_proj.weight[start, MARKER] = 1.0
    attention.o_proj.weight[WRITTEN, start] = 0.3
