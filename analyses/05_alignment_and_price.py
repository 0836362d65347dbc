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
# # 5. Alignment, and what it costs
#
# **Claim.** Tuning the query and output weights of a few heads, and stopping in time, makes the model say Yes about as
# often as yes is right, on questions that had no part in it, and costs little elsewhere.
#
# **Look at** the imbalance in *each* candidate order (both must come near 0; one order overshooting to Yes while the
# other still says No is the usual failure), at the AUC, and at the perplexity and the other abilities. Then at what a
# mere shift of the threshold would have given.
#
# **It would be refuted by** an imbalance that stays, an AUC that falls, or a perplexity that rises. That an offset for
# each candidate order does as well, or other heads, would leave it standing and make it worth less.
#
# Heads are ranked and tuned on the probe split, everything is decided on the validation split, and the test split is
# asked at the end.

# %%
import json
import os

import pandas as pd
from IPython.display import Markdown
from keep import ROOT, keep

import nasa_interp as ni
from nasa_interp.alignment import Limits, Recipe, align_heads
from nasa_interp.evaluation import evaluate_change, groups_above_chance
from nasa_interp.figures import calibration_curve, precision_recall

# Questions to tune on, to validate on and to test on. Fewer than 48 decide nothing.
LIMIT = max(48, int(os.environ.get("NASA_INTERP_LIMIT") or 128))
PROBE, VAL, TEST = "builtin:verify#probe", "builtin:verify#val", "builtin:verify#test"

# %% [markdown]
# ## Tuning
#
# The ten heads of highest polarity in the upper two thirds of the layers (every step has to run every layer above the
# lowest tuned head), tuned together. Every few steps the validation questions are asked, and the best checkpoint is
# kept; a change that costs more AUC, answer mass or perplexity than its limit is rolled back.

# %%
model = ni.load_model(os.environ.get("NASA_INTERP_MODEL") or "demo")
scores = ni.score_heads(model, PROBE, limit=LIMIT, progress=False)
heads = scores.top(10, "polarity", from_layer=model.n_layers // 3)
# One question of few moves the AUC far, so the limit on it is no finer than that.
limits = Limits(auc=max(0.02, 2 / LIMIT))
small = Recipe(probe_questions=LIMIT, val_questions=LIMIT, questions=16, steps=16, check_every=4, learning_rate=0.003)
recipe = Recipe() if LIMIT >= 128 else small
run = align_heads(model, heads, PROBE, VAL, recipe=recipe, limits=limits, progress=False)
Markdown(repr(run))

# %%
run.log.transpose()

# %%
keep(
    ni.figures.validation_curves(run.checkpoints, run=run.run),
    "validation_curves",
    run.run,
    checkpoints=run.checkpoints,
)

# %% [markdown]
# ## Before and after
#
# Now the test questions, without and with the change. Accuracy can only be recovered in groups that the model can tell
# apart: those in which the best single threshold is right in 65% or more, chosen on validation.

# %%
known = groups_above_chance(run.untuned)
price = evaluate_change(
    model, run.delta, TEST, groups=known, limit=LIMIT, generation=min(LIMIT, 24) // 2, progress=False
)
keep(ni.figures.decision_histogram(price.before, price.after), "alignment_decisions", price.before.run, price.run,
     before=price.before.summary_dataframe(), after=price.after.summary_dataframe())  # fmt: skip

# %%
keep(precision_recall(price.before, price.after), "alignment_precision_recall", price.before.run, price.run,
     before=price.before.summary_dataframe(), after=price.after.summary_dataframe())  # fmt: skip

# %%
keep(calibration_curve(price.before, price.after), "alignment_calibration", price.before.run, price.run,
     ece_before=price.before.ece, ece_after=price.after.ece)  # fmt: skip

# %% [markdown]
# ## The price
#
# Every measure with its paired interval: decisions, plain text (perplexity and KL), four-option questions, answers in
# free text, and whether the change carries over to another instruction and to other candidate words.

# %%
price.to_dataframe().round(3)

# %% [markdown]
# ## Beside what one could do instead
#
# An offset on the answer, one for all or one for each candidate order; averaging both orders; taking the same heads
# away; a LoRA; the same tuning of ten random sets of heads from the same layers; and NASA with three seeds. All fitted
# on probe and validation, and asked 400 test questions. That takes more than an hour on two cores, so it is measured
# apart (`python benchmarks/alignment.py --parts compare`) and read from its file here.

# %%
full = json.loads((ROOT / "benchmarks" / "alignment.json").read_text(encoding="utf-8"))["compare"]
table, full_run = pd.DataFrame(full["table"]), ni.RunInfo.from_dict(full["run"])
keep(ni.figures.method_comparison(table, run=full_run), "alignment_methods", full_run, table=table)

# %% [markdown]
# How far NASA is above each other method, with an interval over questions and runs: above 0 NASA is ahead, below 0 it
# stays behind. `better` counts the runs of the other method that do as well as NASA's mean.

# %%
pd.DataFrame(full["differences"]).query("measure == 'accuracy'").round(3)

# %%
Markdown("\n\n".join(full["verdict"]))

# %% [markdown]
# ## So

# %%
rows = price.to_dataframe().set_index("measure")
before, after = ({order: each.orders[order].imbalance for order in each.orders} for each in (price.before, price.after))
near = all(abs(imbalance) <= 0.1 for imbalance in after.values())
cheap = rows.high["auc_within_orders"] >= 0 and price.text.ratio < 1.01
apart = pd.DataFrame(full["differences"]).query("measure == 'accuracy'").set_index("method")
beyond = {name: bool(apart.low[name] > 0) for name in ("offset", "offset per order", "random heads", "lora")}
sides = ", ".join(f"{before[order]:+.2f} to {after[order]:+.2f} in order {order}" for order in before)
Markdown(
    f"{run.delta.n_changed:,} weights changed. Imbalance {sides}; accuracy {rows.before['accuracy']:.2f} to "
    f"{rows.after['accuracy']:.2f}; AUC within an order {rows.before['auc_within_orders']:.3f} to "
    f"{rows.after['auc_within_orders']:.3f}; perplexity times {price.text.ratio:.4f}. On {price.run.n_questions} test "
    f"questions:\n\n"
    f"- within 0.1 of balance in both orders: **{'yes' if near else 'no'}**\n"
    f"- no fall of the AUC beyond luck, and less than 1% of perplexity: **{'yes' if cheap else 'no'}**\n\n"
    f"The claim {'stands' if near and cheap else 'does not stand'}. In the full comparison NASA is ahead beyond luck "
    f"of {', '.join(name for name, ahead in beyond.items() if ahead) or 'none'}, and not of "
    f"{', '.join(name for name, ahead in beyond.items() if not ahead) or 'none'}: what it is worth beside those, and "
    f"whether it has to be these heads, is not settled by its curing the bias."
)
