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
# # 4. Causes, and which ranking finds them
#
# **Claim.** The heads that attend to No have a part in the bias: with them taken away the answer moves toward Yes,
# farther than with random heads of the same layers. (Of a model that says Yes too often: the heads that attend to Yes,
# and toward No.) It is no cure, since sorting power (AUC) may go with them, and which ranking finds the best heads is a
# question of its own.
#
# **Look at** the change of d = logit(No) - logit(Yes), in each candidate order; below 0 is toward Yes. Beside it the
# change of the AUC and of the answer mass (P(Yes) + P(No)), which say what that costs: a model that answers neither is
# not cured. And the same for random heads.
#
# **It would be refuted by** random heads that move d as far, or by an effect in one candidate order that turns round
# in the other.
#
# Heads are ranked on the probe split and judged on the validation split; the test split is not touched.

# %%
import os

import numpy as np
import pandas as pd
from IPython.display import Markdown
from keep import ROOT, keep

import nasa_interp as ni
from nasa_interp.attribution import estimate_zero_ablation
from nasa_interp.figures import ablation_curve, contest_curves, patch_heatmap
from nasa_interp.interventions import Ablator, random_controls, random_heads, shuffle_scores
from nasa_interp.patching import patch_heads, patch_together
from nasa_interp.prompts import instruction_pairs, question_pairs
from nasa_interp.rankings import RankingContest, ranking_contest

# Questions to rank on and to judge by; and random sets of heads.
LIMIT = int(os.environ.get("NASA_INTERP_LIMIT") or 96)
SETS = 19 if LIMIT >= 48 else 3
PROBE, VAL = "builtin:verify#probe", "builtin:verify#val"

# %% [markdown]
# ## The ten leading heads, taken away
#
# Their outputs are set to zero at every position. Intervals are paired, question by question.

# %%
model = ni.load_model(os.environ.get("NASA_INTERP_MODEL") or "demo")
scores = ni.score_heads(model, PROBE, limit=LIMIT, progress=False)
ablator = Ablator(model, VAL, limit=LIMIT, progress=False)
# The answer that the model gives too often; of a model that says Yes too often all of this is read the other way.
toward = ablator.base.toward
heads = scores.top(10, "polarity", toward=toward)
effect = ablator.effect(heads, ni.Zero())
effect.changes.round(3)

# %%
pd.concat({order: effect.estimate(order) for order in effect.base.orders}, names=["order"]).round(3)

# %% [markdown]
# ## Against random heads
#
# As many heads from the same layers, drawn again and again. `p` is the share of sets that do as well or better, the
# chosen one counted in; with few sets it can't be small.

# %%
controls = random_controls(ablator, heads, n=SETS, matched=True)
against = controls.to_dataframe().query("measure in ['mean_logit_difference', 'auc_within_groups', 'answer_mass']")
against.round(3)

# %% [markdown]
# ## One head after another
#
# The first k heads of the ranking; in grey, rankings that know nothing.

# %%
ranking = scores.top(20, "polarity", toward=toward)
curve = ni.interventions.cumulative_effect(model, VAL, ranking, limit=LIMIT, progress=False)
rng = np.random.default_rng(0)
drawn = [random_heads(ranking, model.n_layers, model.n_heads, rng, matched=False) for _ in range(min(SETS, 4))]
random = [ni.interventions.cumulative_effect(model, VAL, each, limit=LIMIT, progress=False) for each in drawn]
keep(ablation_curve(curve, random, run=effect.base.run), "causes_curve", scores.run, effect.base.run, curve=curve)

# %% [markdown]
# ## Which ranking?
#
# The first heads of each ranking are taken away, and all are asked alike. Left is less bias, up is more sorting power;
# the best place is on the left at the height of 0. *first-order zero* estimates each head's effect from one gradient;
# *shuffled* deals the polarities out to other heads and must find nothing.

# %%
rankings = {by: scores.ranking(by, toward=toward) for by in ("values", "polarity")}
rankings["recency"] = scores.ranking("recency")
rankings["first-order zero"] = estimate_zero_ablation(model, PROBE, limit=LIMIT).ranking(toward=toward)
rankings["shuffled"] = shuffle_scores(scores).ranking("polarity", toward=toward)
few = ranking_contest(
    model, val=[VAL], ks=(5, 10), rankings=rankings, limit=LIMIT, n_random=min(SETS, 4), progress=False
)
few.summary().sort_values("bias", ignore_index=True).round(3)

# %%
keep(contest_curves(few.to_dataframe(), run=few.run), "causes_contest_small", few.run, table=few.summary())

# %% [markdown]
# ### The full contest
#
# More rankings (exact ablation of every head, direct attribution), more heads and all questions take hours on two
# cores, so the full contest is measured apart and read from its file here.

# %%
full = RankingContest.load(ROOT / "figures" / "contest.json")
full.summary().sort_values("bias", ignore_index=True).round(3).head(12)

# %%
keep(contest_curves(full.to_dataframe(), run=full.run), "causes_contest", full.run, table=full.summary())

# %%
Markdown(repr(full))

# %% [markdown]
# ## Do these heads carry the truth, or the bias?
#
# Activation patching puts a head's output from a clean run into a corrupted one. *Question pairs* are twins of which
# one is true and one is not: heads that matter there carry the truth. In *instruction pairs* the question stays and
# the word No in the instruction (or Yes, where that is said too often) gives way to a neutral one: heads that matter
# there carry the bias. The effect is the change of d; below 0 is toward Yes. A head that is worth turning down matters
# in the second column and not in the first.

# %%
leading = [*scores.top(6, "polarity", toward=toward), *scores.top(6, "recency")]
suspects = ni.HeadList.of(dict.fromkeys(leading))
pairs = {
    "truth (question pairs)": question_pairs(model, VAL, limit=LIMIT),
    f"bias ({toward.capitalize()} renamed)": instruction_pairs(model, VAL, toward=toward, limit=LIMIT // 2),
}
patched = {name: patch_heads(model, each, suspects, progress=False) for name, each in pairs.items()}
columns = {name: found.to_dataframe().set_index("head")[["effect", "effect_low", "effect_high", "recovered"]]
           for name, found in patched.items()}  # fmt: skip
pd.concat(columns, axis=1).round(3)

# %%
grid = np.stack([found.effect for found in patched.values()], axis=1)
runs = [found.run for found in patched.values()]
figure = patch_heatmap(
    grid,
    rows=suspects.heads,
    columns=list(patched),
    title="Patching one head: does it carry the truth, or the bias?",
    unit="change of logit(No) - logit(Yes)",
    run=f"{model.name}, {VAL}, order yes_no; "
    + ", ".join(f"{name}: {len(each)} pairs" for name, each in pairs.items()),
)
figure.update_xaxes(title="what clean and corrupted run differ in")
keep(figure, "causes_patching", *runs, effects=dict(zip(map(str, suspects), grid.tolist(), strict=True)))

# %% [markdown]
# All of them at once, as heads may stand in for one another:

# %%
together = {name: patch_together(model, each, suspects) for name, each in pairs.items()}
Markdown("\n".join(f"- {name}: {found}" for name, found in together.items()))

# %% [markdown]
# ## So

# %%
found = {order: controls.of(order=order) for order in controls.random}
sign = 1 if toward == "yes" else -1
less = all(sign * each.effect > 0 for each in found.values())
beyond = all(each.p <= 0.05 for each in found.values())
too_few = 1 / (SETS + 1) > 0.05
became = (
    "stands" if less and beyond else "can't be told with so few random sets" if less and too_few else "does not stand"
)
lines = "\n".join(f"- {order or 'both orders'}: {each}" for order, each in found.items())
costs = "\n".join(
    f"- {name.replace('_', ' ')}: {row.before:.3f} to {row.after:.3f} [{row.low:+.3f}, {row.high:+.3f}]; random heads "
    f"{controls.of(name).mean:+.3f} on average"
    for name, row in effect.changes.loc[["auc_within_groups", "answer_mass"]].iterrows()
)
Markdown(
    f"Change of the mean logit difference without the ten heads:\n\n{lines}\n\nand what it costs:\n\n{costs}\n\n"
    f"On {effect.base.run.n_questions} questions the claim **{became}**."
)
