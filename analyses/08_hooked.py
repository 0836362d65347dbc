# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. The hooked model in your hands
#
# **Claim.** Whoever comes with a TransformerLens bridge, with hooks of their own on it, gets from it what the plain
# model gives: the same heads, the same effects of interventions, the same cure.
#
# **Look at** the largest difference of any decision between the plain model and the same weights through hooks.
#
# **It would be refuted by** decisions, scores or effects that differ by more than rounding between the plain model and
# the same weights through hooks, or by a hook of the user's that is gone or without effect afterwards.

# %%
import os

import numpy as np
import pandas as pd
from IPython.display import Markdown
from keep import keep

import nasa_interp as ni

# Questions to score on.
LIMIT = int(os.environ.get("NASA_INTERP_LIMIT") or 48)
FEW = min(LIMIT, 16)

# %% [markdown]
# ## A bridge without hooks
#
# It runs on a plain view of its very own weights: the numbers are the plain model's, bit for bit.

# %%
plain = ni.load_model("demo")
another = ni.load_model("demo")
bridge = another.bridge  # as `TransformerBridge.boot_transformers` gives one
scores = ni.score_heads(bridge, "builtin:verify#probe", limit=LIMIT, progress=False)
own = ni.score_heads(plain, "builtin:verify#probe", limit=LIMIT, progress=False)
heads = scores.top(10, "polarity", from_layer=plain.n_layers // 3)
Markdown(f"{scores.run.notes[-1]}; engine {scores.run.engine}; equal: {np.array_equal(scores.values, own.values)}")

# %%
keep(ni.head_heatmap(scores, "polarity", heads), "hooked_polarity", scores.run, top=[str(head) for head in heads])

# %% [markdown]
# ## With a hook of the user's
#
# One that changes nothing sends every pass through TransformerLens's hook points. What the plain model says, it says,
# to rounding; knocking out the heads' attention to the candidates does the same to both.


# %%
def untouched(value, hook):
    return value


def measured(name, model):
    """Decisions as they are and knocked out, and a row of the table."""
    report = ni.decide(model, "builtin:verify#val", limit=FEW, progress=False)
    effect = ni.ablation_effect(model, "builtin:verify#val", heads, ni.Knockout(), limit=FEW, progress=False)
    row = (name, report.run.engine, report.mean_logit_difference, effect.mean_logit_difference_change)
    return np.concatenate([report.logit_differences, effect.changed.logit_differences]), row


expected, first = measured("plain", plain)
bridge.add_hook("blocks.0.hook_resid_pre", untouched)
found, second = measured("through hooks", bridge)
off = float(np.abs(expected - found).max())
pd.DataFrame([first, second], columns=["model", "engine", "mean d", "change of mean d"]).round(5)

# %%
assert off < 1e-3
assert [hook.user_hook for hook in bridge.hook_dict["blocks.0.hook_resid_pre"].fwd_hooks] == [untouched]
Markdown(
    f"The largest difference of any decision, as it is or knocked out, is {off:.1e}; the user's hook is still there."
)

# %% [markdown]
# ## Tuned, and looked at again
#
# Without the hook, on the plain view, as fast as a plain model. A short recipe: what it is worth is in notebook 5.

# %%
bridge.reset_hooks()
recipe, limits = (
    ni.Recipe(steps=8, probe_questions=64, val_questions=32, mixed_precision=False),
    ni.Limits(auc=0.1, answer_mass=0.4, perplexity=1.05),
)
sets = {"probe": "builtin:verify#probe", "val": "builtin:verify#val"}
run = ni.align_heads(bridge, heads, **sets, recipe=recipe, limits=limits, progress=False)
run.to_dataframe()

# %%
with run.delta.applied(ni.load_model(bridge)):
    tuned = ni.score_heads(bridge, "builtin:verify#probe", limit=LIMIT, progress=False)
keep(ni.head_heatmap(tuned, "polarity", heads), "hooked_tuned", tuned.run, top=[str(head) for head in heads])

# %% [markdown]
# ## What became of the claim

# %%
same, base = np.array_equal(scores.values, own.values), run.delta.base_hash == plain.weights_hash()
stands = "stands" if same and base and off < 1e-3 else "does not stand"
Markdown(
    f"The claim {stands}: scores of the bridge and of the plain model are {'equal' if same else 'not equal'}; through "
    f"hooks, decisions and knock-out effects differ by at most {off:.1e}; tuning changed {run.delta.n_changed:,} "
    f"weights, and the delta is {'' if base else 'not '}one of the plain model's weights."
)
