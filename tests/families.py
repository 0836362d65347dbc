"""Tiny random models of every supported family, each with the family's peculiarities on, and a tokenizer to match.

Nothing is downloaded: configurations are written out here, weights are drawn from a seed, and the tokenizer is trained
in memory. Weights are drawn wide, so that attention is far from uniform and a wrong mask or scale shows.
"""

import functools
from collections.abc import Callable

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from nasa_interp.questions import BinaryQuestion

WINDOW = 8
"""Sliding window of the families that have one: shorter than any prompt of the tests."""

SPECIALS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TEXT = """
You are given a question and you MUST answer Yes or No. You are given a question and you MUST answer No or Yes.
Question: Is Paris the capital of France? Answer: Yes. Question: Is Rome the capital of Spain? Answer: No.
Yes or No. No or Yes. yes or no. no or yes. YES or NO. Answer Yes or No. Not now. Nothing is known. Yesterday was fine.
Is this review positive? "The film was a delight from beginning to end, warm and funny." Answer: Yes
Is this review positive? "A dull, slow and empty story that nobody should have to watch." Answer: No
Is the word apple the same as the word apple? Yes. Is the word apple the same as the word river? No.
Tom has a red ball. Is Tom's ball red? Yes. Anna has a blue car. Is Anna's car green? No.
The list holds bread, milk, salt and tea. Does it hold milk? Yes. Does it hold sugar? No.
Is 12 + 7 = 19? Yes. Is 34 + 8 = 45? No. Is 100 greater than 99? Yes. Is 6 times 7 equal to 41? No.
Let's think step by step: first the given facts, then what follows from them, and last the answer.
system user assistant instruction context statement true false right wrong is right is wrong correct incorrect
You are a helpful assistant who answers every question with one single word and explains nothing at all.
Water freezes at zero degrees; iron is a metal; the moon goes around the earth, and the earth around the sun.
"""


@functools.cache
def _tokenizer_json() -> str:
    """Train the byte-level BPE once; every call of `tiny_tokenizer` reads a fresh tokenizer from this text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    # The candidate words are repeated, so that they merge into one token with and without a leading space.
    tokenizer.train_from_iterator([TEXT] + ["Yes", "No", "Yes No", "No Yes"] * 20, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 600 tokens, new at each call; "Yes" and "No" are one token each.

    Args:
        chat: give it a ChatML template; without one it is the tokenizer of a base model.

    Returns:
        a fast tokenizer with offsets and bos, eos and pad tokens; it adds no special token by itself.
    """
    bos, eos, pad, start, end = SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json()),
        bos_token=bos,
        eos_token=end if chat else eos,
        pad_token=pad,
        additional_special_tokens=[start, end],
        chat_template=CHATML if chat else None,
        clean_up_tokenization_spaces=False,
    )


def token_settings() -> dict[str, int]:
    """The settings that every configuration takes from the tokenizer."""
    tokenizer = tiny_tokenizer()
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def base(**changes) -> dict:
    """Settings that most decoder-only families share: 2 layers, 4 heads, 48 dimensions."""
    settings = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
    }
    return token_settings() | settings | changes


def grouped(**changes) -> dict:
    """The same with two heads to each key and value, and a gated MLP."""
    return base(num_key_value_heads=2, intermediate_size=64) | changes


def gpt_base(**changes) -> dict:
    """The same for the families that kept GPT-2's names."""
    settings = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.3}
    return token_settings() | settings | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} | changes


def _windows(*kinds: str) -> dict:
    """Layer types from "s" (sliding) and "f" (full), with the window."""
    names = {"s": "sliding_attention", "f": "full_attention"}
    return {"layer_types": [names[kind] for kind in kinds], "num_hidden_layers": len(kinds), "sliding_window": WINDOW}


ROPE = {"rope_type": "default", "rope_theta": 1e4}

FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**grouped(attention_bias=True)),
    "llama_tied": lambda: transformers.LlamaConfig(**grouped(tie_word_embeddings=True)),
    "qwen2": lambda: transformers.Qwen2Config(**grouped(use_sliding_window=True, **_windows("f", "s"))),
    "qwen3": lambda: transformers.Qwen3Config(**grouped(head_dim=16)),
    "mistral": lambda: transformers.MistralConfig(**grouped(sliding_window=WINDOW)),
    "mixtral": lambda: transformers.MixtralConfig(**grouped(num_local_experts=4, num_experts_per_tok=2)),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(
        **grouped(head_dim=16, query_pre_attn_scalar=16, **_windows("s", "f", "s"))
    ),
    "gpt2": lambda: transformers.GPT2Config(**gpt_base(scale_attn_by_inverse_layer_idx=True)),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        **base(intermediate_size=64, rope_parameters=ROPE | {"partial_rotary_factor": 0.5})
    ),
    "gptj": lambda: transformers.GPTJConfig(**gpt_base(rotary_dim=4)),
    "olmo2": lambda: transformers.Olmo2Config(**grouped()),
    "phi3": lambda: transformers.Phi3Config(**grouped(sliding_window=WINDOW)),
    "falcon": lambda: transformers.FalconConfig(
        **base(num_kv_heads=2, new_decoder_architecture=True, alibi=False, ffn_hidden_size=64)
    ),
    "falcon_multi_query": lambda: transformers.FalconConfig(
        **base(multi_query=True, parallel_attn=True, alibi=False, bias=True, ffn_hidden_size=64)
    ),
    "granite": lambda: transformers.GraniteConfig(
        **grouped(attention_multiplier=0.2, logits_scaling=4.0, residual_multiplier=0.5, embedding_multiplier=3.0)
    ),
    "smollm3": lambda: transformers.SmolLM3Config(**grouped(num_hidden_layers=4, no_rope_layers=[1, 0, 1, 0])),
    "gemma2": lambda: transformers.Gemma2Config(
        **grouped(head_dim=16, query_pre_attn_scalar=16, attn_logit_softcapping=2.0, **_windows("s", "f"))
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **grouped(head_dim=16, num_local_experts=4, num_experts_per_tok=2, rope_parameters=ROPE, **_windows("s", "f"))
    ),
    "t5": lambda: transformers.T5Config(
        **token_settings(), d_model=48, d_kv=12, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=2
    ),
    "mamba": lambda: transformers.MambaConfig(**token_settings(), hidden_size=48, state_size=4, num_hidden_layers=2),
    "lfm2": lambda: transformers.Lfm2Config(**grouped(layer_types=["conv", "full_attention"])),
}

REFUSED = {
    "gpt_oss": "attention sinks",
    "t5": "an encoder and a decoder",
    "mamba": "no attention heads",
    "lfm2": "layers of kind 'conv'",
}
"""Families that can't be scored, each with words out of the reason that is given."""

SUPPORTED = tuple(family for family in FAMILIES if family not in REFUSED)

ENGINE_REFUSES = {
    ("gptj", "fused"): "doesn't support fused",
    ("falcon", "fused"): "doesn't go through AttentionInterface",
    ("falcon_multi_query", "fused"): "doesn't go through AttentionInterface",
    ("gemma2", "fused"): "doesn't support fused",
}
"""Engines that refuse a family which the other one takes, each with words out of the reason that is given."""

FULL = (None, None)

LAYER_WINDOWS: dict[str, tuple[int | None, ...]] = {
    "qwen2": (None, WINDOW),
    "mistral": (WINDOW, WINDOW),
    "gemma3_text": (WINDOW, None, WINDOW),
    "phi3": (WINDOW, WINDOW),
    "smollm3": (None,) * 4,
    "gemma2": (WINDOW, None),
}
"""Each layer's window where it isn't `FULL`, written out by hand so that tests don't ask the code that they test."""

PECULIARITIES = {
    "llama": "grouped heads, biases in attention",
    "llama_tied": "grouped heads, tied embeddings",
    "qwen2": "grouped heads, query and key biases, a full and a sliding layer",
    "qwen3": "grouped heads, norms of each query and key, head size of its own",
    "mistral": "grouped heads, sliding windows",
    "mixtral": "grouped heads, mixture of experts",
    "gemma3_text": "grouped heads, local and global layers with rotary bases of their own, query and key norms",
    "gpt2": "Conv1D, fused projection, learned positions, scores scaled by layer, tied embeddings",
    "gpt_neox": "fused projection head by head, parallel blocks, partial rotary",
    "gptj": "parallel blocks, partial rotary in interleaved pairs",
    "olmo2": "grouped heads, queries and keys normed over all heads, norms after the blocks",
    "phi3": "grouped heads, fused projections, sliding windows",
    "falcon": "fused projection group by group, two norms, parallel blocks",
    "falcon_multi_query": "one key and value head, fused projection, biases, parallel blocks",
    "granite": "grouped heads, scaled scores, residuals, embeddings and logits",
    "smollm3": "grouped heads, every second layer without rotary embedding",
    "gemma2": "grouped heads, soft-capped scores, a sliding and a full layer",
    "gpt_oss": "attention sinks, mixture of experts, a sliding and a full layer",
    "t5": "encoder and decoder, relative positions",
    "mamba": "recurrent layers",
    "lfm2": "convolutions in place of attention in some layers",
}
"""What sets a tiny model of the family apart from the plainest transformer."""


QUESTIONS = tuple(
    BinaryQuestion(question, label, str(number), "facts" if number < 3 else "sums")
    for number, (question, label) in enumerate(
        (
            ("Is Tom's ball red?", True),
            ("Is Tom's ball blue, or is it not?", False),
            ("Is this review positive? A dull, slow and empty story that nobody should have to watch.", False),
            ("Is 12 + 7 = 19?", True),
            ("Is 34 + 8 = 45? None of this is easy, No?", False),
            ("The list holds bread, milk, salt and tea. Does it hold milk?", True),
        )
    )
)
"""Six questions of unequal length."""


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A random model of the family in fp32 and eval mode; the same seed gives the same weights.

    Args:
        family: a key of `FAMILIES`.
        seed: of the weights; the global random state stays as it was.

    Returns:
        the model; biases, norm weights and sinks are random too, which a fresh model would leave at 0 or 1, and
        query norms are larger, since normed queries and keys would attend almost evenly.
    """
    config = FAMILIES[family]()
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = auto.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            if "q_norm" in name:
                parameter.add_(2.0)
    return model.eval()
