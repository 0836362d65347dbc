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
# # 2. The heads
#
# **Claim.** Attention to the word "No" in the instruction is the work of a few heads: out of all heads of the model, a
# handful pay far more attention to it than to "Yes", whatever the question is.
#
# **Look at** the *negative attention score* (NAS): over the tokens after the instruction, the sum of (A_yes + A_no)
# ln(A_no / A_yes), where A is the attention that a token pays to each candidate. The score is the paper's. Above 0:
# the head looks at No.
#
# **It would be refuted by** scores spread evenly over the heads, or by intervals of the leading heads that reach down
# to the others.

# %%
import os

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown
from keep import keep

import nasa_interp as ni
from nasa_interp.view import view_heads

# Questions to score on.
LIMIT = int(os.environ.get("NASA_INTERP_LIMIT") or 240)

# %%
model = ni.load_model(os.environ.get("NASA_INTERP_MODEL") or "demo")
scores = ni.score_heads(model, "builtin:verify#probe", limit=LIMIT, progress=False)
tops = {by: scores.top(10, by) for by in ("values", "polarity")}
Markdown(repr(scores))

# %% [markdown]
# ## Every head at once
#
# The paper's score, in the order "Yes or No". Outlined: the ten highest. Hover for the intervals.

# %%
names = {by: [str(head) for head in top] for by, top in tops.items()}
keep(ni.head_heatmap(scores, "values", tops["values"]), "heads_values", scores.run, top=names["values"])

# %% [markdown]
# *Polarity* (ours) is the mean of the score in both candidate orders: attention to No wherever it stands. A head that
# only looks at whatever stands last has a high score above and none here. Notebook 3 takes the two apart.

# %%
keep(ni.head_heatmap(scores, "polarity", tops["polarity"]), "heads_polarity", scores.run, top=names["polarity"])

# %% [markdown]
# ## The leading heads
#
# By the paper's score on the left, by polarity on the right.

# %%
both = [top.to_dataframe()[["head", "score"]].set_axis([by, f"{by}_score"], axis=1) for by, top in tops.items()]
pd.concat(both, axis=1).round(3)

# %%
frame = scores.to_dataframe().set_index("head")
frame.loc[names["polarity"], ["polarity", "polarity_low", "polarity_high", "values", "recency"]].round(3)

# %% [markdown]
# ## How few are they?
#
# The share of all positive attention to No that the ten leading heads hold, beside what ten heads would hold if it
# were spread evenly; and whether the lowest end of their intervals lies above those of nine in ten others.

# %%
share = {}
for by, top in tops.items():
    positive = np.clip(scores.get(by), 0, None)
    others = np.delete(frame[f"{by}_high"].to_numpy(), [frame.index.get_loc(name) for name in names[by]])
    share[by] = {
        "share_of_top_10": np.clip(top.scores, 0, None).sum() / positive.sum(),
        "if_even": len(top) / positive.size,
        "lowest_end_of_top_10": frame.loc[names[by], f"{by}_low"].min(),
        "high_end_of_9_in_10_others": float(np.quantile(others, 0.9)),
    }
pd.DataFrame(share).T.round(3)

# %% [markdown]
# ## One prompt under the lens
#
# What three of these heads look at while the model reads one question. Left: attention that the tokens after the
# instruction pay to each token. Right: what each of these tokens adds to the score.

# %%
question = ni.load_questions("builtin:verify#probe")[0]
view = view_heads(model, question, tops["polarity"][:3])
keep(view.to_figure(), "heads_view", view.run, nas=dict(zip(names["polarity"], view.nas.tolist(), strict=False)))

# %% [markdown]
# The same as text, shaded by attention.

# %%
HTML(view.to_html())

# %% [markdown]
# ## So

# %%
few = all(row["share_of_top_10"] > 3 * row["if_even"] for row in share.values())
apart = all(row["lowest_end_of_top_10"] > row["high_end_of_9_in_10_others"] for row in share.values())
agree = len(set(names["values"]) & set(names["polarity"]))
Markdown(
    f"Ten of {frame.shape[0]} heads hold {share['values']['share_of_top_10']:.0%} of the positive score and "
    f"{share['polarity']['share_of_top_10']:.0%} of the positive polarity ({share['polarity']['if_even']:.0%} if it "
    f"were spread evenly). {agree} of the ten are the same in both lists. "
    f"On {scores.run.n_questions} questions the claim **{'stands' if few and apart else 'does not stand'}**."
)
