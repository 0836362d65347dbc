"""Checks, before every pass of every engine, that a module is in a state in which its results are meaningful."""

import functools
from typing import Any

import torch
from torch import nn

from ..errors import ModelError

# Adapter layers that leave positions, heads and the path through the model unchanged.
KNOWN = ("LoraLayer", "TrainableTokensLayer")
# transformers records outputs by hooks, TransformerLens and accelerate are made of them.
LIBRARIES = ("transformers", "transformer_lens", "accelerate", "peft")
MERGE = "merge it (merge_and_unload()) and hand over the merged model"


def check_ready(module: Any) -> None:
    """Refuses a module whose pass would be random, or that holds adapters whose effect depends on the prompt.

    Both can happen after the model was loaded, so every pass checks again, in about a millisecond.

    Raises:
        ModelError: a part in training mode, an adapter other than LoRA.

    Source: ours.
    """
    for name, part in module.named_modules():
        if part.training and _draws(part):
            where = f"its part {name!r}" if name else "it"
            raise ModelError(
                f"{type(module).__name__}: {where} is in training mode, where dropout is random; call model.eval()"
            )
        if (kind := adapter_kind(type(part))) is None:
            continue
        if kind not in KNOWN:
            raise ModelError(f"{name!r} holds an adapter of another kind than LoRA ({kind}); {MERGE}")
        if any("ALora" in type(variant).__name__ for variant in getattr(part, "lora_variant", {}).values()):
            raise ModelError(f"{name!r} holds an activated LoRA, which acts on some tokens only; {MERGE}")


def _draws(part: nn.Module) -> bool:
    """Whether a part may be random in training mode: dropout, and transformers' own modules.

    Wrappers such as a hooked model's own modules are often left in training mode, where they do nothing else.
    """
    if isinstance(part, nn.modules.dropout._DropoutNd):
        return part.p > 0
    return type(part).__module__.startswith("transformers") or isinstance(part, nn.modules.batchnorm._BatchNorm)


@functools.cache
def adapter_kind(kind: type) -> str | None:
    """The kind of PEFT's layers that this class is: "LoraLayer", another one's name, or None for no adapter.

    Compares names, so that PEFT needn't be imported.
    """
    names = [c.__name__ for c in kind.__mro__ if c.__module__.startswith("peft.")]
    if "BaseTunerLayer" not in names:
        return None
    return next((name for name in KNOWN if name in names), names[0])


def has_adapters(module: nn.Module) -> bool:
    """Whether any part is an adapter's layer around one of the model's own."""
    return any(adapter_kind(type(part)) for part in module.modules())


def has_hooks(module: nn.Module) -> bool:
    """Whether this module has forward hooks from the user; hooks that libraries add themselves don't count."""
    return any(map(_foreign, (*module._forward_hooks.values(), *module._forward_pre_hooks.values())))


def _foreign(hook: Any) -> bool:
    """Whether a hook comes from outside the libraries, by the module that defines it."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    return str(getattr(hook, "__module__", "")).partition(".")[0] not in LIBRARIES


def unwrapped(model: Any) -> Any:
    """The transformers model inside a PEFT model with LoRA adapters; anything else unchanged.

    Raises:
        ModelError: adapters of another kind (virtual tokens, prefixes, mixtures), or hooks on the wrapper, which the
            model inside would not run.
    """
    if not derives(model, "PeftModel", "peft") and not derives(model, "PeftMixedModel", "peft"):
        return model
    if not derives(model.base_model, "LoraModel", "peft"):
        kinds = ", ".join(sorted(str(getattr(c, "peft_type", c)).split(".")[-1] for c in model.peft_config.values()))
        raise ModelError(
            f"{type(model).__name__} holds adapters of kind {kinds}, and only LoRA is known to leave prompts and heads "
            f"what they are; {MERGE}, or take adapters of kind LORA"
        )
    if has_hooks(model) or has_hooks(model.base_model):
        raise ModelError(
            "hooks on a PeftModel don't act on the model inside; hang them on get_base_model() or its parts"
        )
    return model.base_model.model


def state_notes(module: nn.Module) -> tuple[str, ...]:
    """What a result should mention about its plain model besides the weights: hooks, adapters."""
    notes = []
    if hooked := [name or "the model" for name, part in module.named_modules() if has_hooks(part)]:
        more = f" and {len(hooked) - 3} more" if len(hooked) > 3 else ""
        notes.append(f"hooks of the user's on {', '.join(hooked[:3])}{more}")
    if torch.nn.modules.module._has_any_global_hook():
        notes.append("hooks of the user's on all modules")
    # accelerate's replacement of forward moves weights and changes no results.
    named = module.named_modules()
    replaced = [name or "the model" for name, m in named if "forward" in vars(m) and not hasattr(m, "_hf_hook")]
    if replaced:
        notes.append(f"forward replaced in {', '.join(replaced[:3])}")
    adapters: list[Any] = [part for part in module.modules() if adapter_kind(type(part))]
    if adapters:
        active = sorted({name for part in adapters for name in part.active_adapters})
        scales = sorted({f"{part.scaling[name]:g}" for part in adapters for name in getattr(part, "scaling", ())})
        state = "switched off" if all(part.disable_adapters for part in adapters) else "active"
        notes.append(f"LoRA adapters {', '.join(active)} {state}, scaled by {', '.join(scales)}")
    return tuple(notes)


def derives(model: Any, name: str, library: str) -> bool:
    """Whether the object's class is, or derives from, a library's class of this name, without importing the library."""
    return any(c.__name__ == name and c.__module__.startswith(library) for c in type(model).__mro__)
