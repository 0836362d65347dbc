"""Free generation: the model's likeliest tokens, whatever its own generation_config, its pads and its batches say."""

import copy
import warnings

import pytest
import torch
import transformers
from families import QUESTIONS, grouped, tiny_model, tiny_tokenizer

import nasa_interp as ni
from nasa_interp.errors import ModelError, PromptError
from nasa_interp.prompts import build_prompts

NEW = 6


def oracle(model, prompts, ends=(), n=NEW):
    """Token ids of each answer: argmax of a plain forward pass over one prompt, token after token."""
    answers = []
    for row, last in zip(prompts.tokens, prompts.last_pos.tolist(), strict=True):
        tokens, written = row[: last + 1].tolist(), []
        while len(written) < n:
            with torch.no_grad():
                token = int(model.hf(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax())
            if token in ends:
                break
            tokens.append(token)
            written.append(token)
        answers.append(written)
    return answers


def said(model, answers):
    return tuple(model.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers)


def wrapped(hf):
    return ni.load_model(hf, tokenizer=tiny_tokenizer())


def generated(model, **options):
    return ni.evaluation.decide_by_generation(
        model, list(QUESTIONS), "yes_no", **{"max_new_tokens": NEW, "progress": False} | options
    ).texts


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def asked(request):
    """A model, its prompts, and the ids that it answers with where nothing ends an answer."""
    model = wrapped(tiny_model(request.param))
    prompts = build_prompts(model, QUESTIONS, "yes_no")
    return model, prompts, oracle(model, prompts)


# Each makes settings out of the ids that the first answer is written with.
LEAKS = {
    "bad_words_ids": lambda ids: {"bad_words_ids": [[ids[0]]]},
    "suppress_tokens": lambda ids: {"suppress_tokens": ids},
    "begin_suppress_tokens": lambda ids: {"begin_suppress_tokens": ids[:1]},
    "sequence_bias": lambda ids: {"sequence_bias": [[[ids[0]], -50.0]]},
    "forced_eos_token_id": lambda ids: {"forced_eos_token_id": 7},
    "guidance_scale": lambda ids: {"guidance_scale": 3.0},
    "no_repeat_ngram_size": lambda ids: {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": lambda ids: {"encoder_no_repeat_ngram_size": 1},
    "repetition_penalty": lambda ids: {"repetition_penalty": 50.0},
    "encoder_repetition_penalty": lambda ids: {"encoder_repetition_penalty": 50.0},
    "exponential_decay_length_penalty": lambda ids: {"exponential_decay_length_penalty": (1, 50.0), "eos_token_id": 9},
    "min_length": lambda ids: {"min_length": 400, "eos_token_id": ids[2]},
    "min_new_tokens": lambda ids: {"min_new_tokens": NEW, "eos_token_id": ids[2]},
    "max_length": lambda ids: {"max_length": 3},
    "max_time": lambda ids: {"max_time": 1e-9},
    "num_beams": lambda ids: {"num_beams": 3},
    "beams of several groups": lambda ids: {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 9.0},
    "early_stopping": lambda ids: {"num_beams": 2, "early_stopping": True, "length_penalty": -5.0},
    "num_return_sequences": lambda ids: {"num_beams": 2, "num_return_sequences": 2},
    "do_sample": lambda ids: {"do_sample": True, "temperature": 9.0, "top_k": 50, "min_p": 0.0},
    "contrastive search": lambda ids: {"penalty_alpha": 0.9, "top_k": 4},
    "stop_strings": lambda ids: {"stop_strings": ["e"]},
    "dola_layers": lambda ids: {"dola_layers": "high"},
    "prompt_lookup_num_tokens": lambda ids: {"prompt_lookup_num_tokens": 3},
    "assistant_early_exit": lambda ids: {"assistant_early_exit": 1},
    "watermarking_config": lambda ids: {"watermarking_config": {"bias": 50.0, "seeding_scheme": "selfhash"}},
    "token_healing": lambda ids: {"token_healing": True},
    "return_dict_in_generate": lambda ids: {"return_dict_in_generate": True, "output_scores": True},
    "output_attentions": lambda ids: {"return_dict_in_generate": True, "output_attentions": True},
    "use_cache": lambda ids: {"use_cache": False},
    "cache_implementation": lambda ids: {"cache_implementation": "quantized"},
    "static cache": lambda ids: {"cache_implementation": "static"},
    "paged cache": lambda ids: {"cache_implementation": "paged"},
    "no pad": lambda ids: {"pad_token_id": None, "eos_token_id": ids[2]},
    "pad outside the embeddings": lambda ids: {"pad_token_id": 10**6, "eos_token_id": ids[2]},
    "pad that is said": lambda ids: {"pad_token_id": ids[1], "eos_token_id": ids[2]},
    "several end tokens": lambda ids: {"eos_token_id": [ids[2], 7]},
}


@pytest.mark.parametrize("name", LEAKS)
def test_nothing_of_the_models_own_generation_config_but_its_end_tokens_counts(asked, name, monkeypatch):
    model, prompts, free = asked
    own = transformers.GenerationConfig(eos_token_id=9999, pad_token_id=2)
    for setting, value in LEAKS[name](free[0]).items():
        setattr(own, setting, value)
    before = copy.deepcopy(own.to_dict())
    monkeypatch.setattr(model.hf, "generation_config", own)
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    assert generated(model) == said(model, oracle(model, prompts, ends))
    assert model.hf.generation_config is own
    assert own.to_dict() == before


def test_settings_in_the_models_config_do_not_count_either(asked, monkeypatch):
    model, _, free = asked
    monkeypatch.setattr(model.hf.config, "bad_words_ids", [[free[0][0]]], raising=False)
    monkeypatch.setattr(model.hf.generation_config, "eos_token_id", 9999)
    assert generated(model) == said(model, free)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_answers_end_at_any_end_token_each_at_its_own_place(batch_size, monkeypatch):
    model = wrapped(tiny_model("llama"))
    twice = [*QUESTIONS, *(ni.BinaryQuestion(q.question, not q.label, f"{q.id} again") for q in QUESTIONS)]
    prompts = build_prompts(model, twice, "yes_no")
    free = oracle(model, prompts)
    ends = [free[0][1], free[3][3]]
    monkeypatch.setattr(model.hf.generation_config, "eos_token_id", ends)
    answers = oracle(model, prompts, ends)
    assert len({len(answer) for answer in answers}) > 1
    found = ni.evaluation.decide_by_generation(
        model, twice, "yes_no", max_new_tokens=NEW, batch_size=batch_size, progress=False
    )
    assert found.texts == said(model, answers)


def test_where_the_model_names_no_end_token_the_tokenizers_counts(monkeypatch):
    model = wrapped(tiny_model("llama"))
    prompts = build_prompts(model, QUESTIONS, "yes_no")
    end = oracle(model, prompts)[0][2]
    monkeypatch.setattr(model.hf.generation_config, "eos_token_id", None)
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(end)
    assert generated(model) == said(model, oracle(model, prompts, [end]))


def longrope(family):
    """A model whose positions change where the longest prompt of a pass has more than 64 tokens."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64}
    rope |= {"short_factor": [1.0] * 6, "long_factor": [8.0] * 6}
    config = {"llama": transformers.LlamaConfig, "phi3": transformers.Phi3Config}[family](
        **grouped(rope_parameters=rope, original_max_position_embeddings=64)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", ["phi3", "llama"])
def test_no_answer_depends_on_its_batch_mates_where_positions_depend_on_the_longest(family):
    model, style = wrapped(longrope(family)), ni.PromptStyle("Yes or No?")
    words = "red blue green yellow black white brown grey pink " * 3
    several = [ni.BinaryQuestion(f"Is it {words[:n]}?", True, f"{n}") for n in range(0, 130, 3)]
    prompts = build_prompts(model, several, "yes_no", style)
    lengths = set((prompts.last_pos + 1).tolist())
    assert min(lengths) + NEW < 64 < max(lengths)
    assert lengths & set(range(60, 65)), "no answer passes the 64th token"
    found = ni.evaluation.decide_by_generation(model, several, "yes_no", style, max_new_tokens=NEW, progress=False)
    assert found.texts == said(model, oracle(model, prompts, [model.hf.generation_config.eos_token_id]))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_prompt_that_leaves_no_room_for_the_answer_is_refused_before_anything_runs(family):
    model = wrapped(tiny_model(family))
    model.hf.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    short = build_prompts(model, [ni.BinaryQuestion("a", True, "x")], "yes_no").last_pos[0] + 1
    long = ni.BinaryQuestion("a" + " a" * (505 - int(short)), True, "long")
    says = r"'long' makes a prompt of 505 tokens, which leaves room for 7 of 8 new tokens in the model's context of 512"
    with pytest.raises(PromptError, match=says):
        ni.evaluation.decide_by_generation(model, [*QUESTIONS, long], "both", max_new_tokens=8, progress=False)


def test_an_answer_that_fills_the_context_is_written():
    model = wrapped(tiny_model("gpt2"))
    short = build_prompts(model, [ni.BinaryQuestion("a", True, "x")], "yes_no").last_pos[0] + 1
    long = [ni.BinaryQuestion("a" + " a" * (505 - int(short)), True, "long")]
    prompts = build_prompts(model, long, "yes_no")
    found = ni.evaluation.decide_by_generation(model, long, "yes_no", max_new_tokens=7, progress=False)
    assert found.texts == said(model, oracle(model, prompts, [model.hf.generation_config.eos_token_id], 7))


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 0}, {"max_new_tokens": -3}, {"batch_size": 0}, {"batch_size": -1}]
)
def test_sizes_below_one_are_refused(options):
    (name, value), *_ = options.items()
    with pytest.raises(PromptError, match=f"{name} is {value}; give 1 or more"):
        generated(wrapped(tiny_model("llama")), **options)


def test_a_model_in_train_mode_is_refused():
    model = wrapped(tiny_model("llama"))
    model.hf.train()
    with pytest.raises(ModelError, match="training mode"):
        generated(model)


def test_the_generation_config_is_back_where_generation_fails():
    model = wrapped(tiny_model("llama"))
    own = model.hf.generation_config

    def fail(*_):
        raise RuntimeError("out of memory")

    model.hf.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generated(model)
    assert model.hf.generation_config is own


def test_hooks_and_adapters_on_the_model_act():
    import peft

    model = wrapped(tiny_model("llama"))
    plain = generated(model)
    hook = model.hf.model.layers[0].register_forward_hook(lambda _, __, out: out + 1.0)
    steered = generated(model)
    assert steered == said(
        model, oracle(model, build_prompts(model, QUESTIONS, "yes_no"), [model.hf.generation_config.eos_token_id])
    )
    hook.remove()
    assert plain == generated(model) != steered
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")  # PEFT asks transformers for what it will soon no longer know
        adapted = peft.get_peft_model(tiny_model("llama"), config).eval()
    own = adapted.get_base_model().generation_config
    own.bad_words_ids = [[3]]
    lora = wrapped(adapted)
    answers = said(lora, oracle(lora, build_prompts(lora, QUESTIONS, "yes_no"), [own.eos_token_id]))
    assert generated(lora) == answers != plain
    with adapted.disable_adapter():
        assert generated(lora) == plain
    assert adapted.get_base_model().generation_config is own


def test_prompts_that_were_built_already_are_answered_in_their_own_style():
    model = wrapped(tiny_model("llama"))
    style = ni.PromptStyle(yes="True", no="False")
    prompts = build_prompts(model, QUESTIONS, "no_yes", style)
    found = ni.evaluation.decide_by_generation(model, prompts, max_new_tokens=NEW, progress=False)
    assert set(found.order) == {"no_yes"}
    assert found.texts == said(model, oracle(model, prompts, [model.hf.generation_config.eos_token_id]))
    assert found.answers == tuple(ni.evaluation.first_candidate(text, style) for text in found.texts)


def test_both_orders_share_batches_and_answer_as_they_do_alone():
    model = wrapped(tiny_model("llama"))
    common = {"max_new_tokens": NEW, "progress": False}
    both, *alone = (
        ni.evaluation.decide_by_generation(model, QUESTIONS, order, **common) for order in ("both", "yes_no", "no_yes")
    )
    assert both.texts == alone[0].texts + alone[1].texts
    assert both.order == alone[0].order + alone[1].order
