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
# # 6. The same heads on other data
#
# **Claim.** The leading heads are largely the same whatever the questions are about. The paper says so of its data
# sets; here the groups of the built-in questions (reviews, facts, words, categories, lists, sums, capitals, sizes)
# stand for data sets, and StrategyQA joins them where NASA_INTERP_STRATEGYQA names its file.
#
# **Look at** how many heads two top tens share, and at the rank correlation over all heads.
#
# **It would be refuted by** pairs of data that share no more of their top ten than chance would give.

# %%
import os
from itertools import combinations

import pandas as pd
from IPython.display import Markdown
from keep import keep

import nasa_interp as ni
from nasa_interp.figures import overlap_scatter
from nasa_interp.questions import QuestionList

# Questions of each group.
LIMIT = int(os.environ.get("NASA_INTERP_LIMIT") or 40)
# StrategyQA's dev.json, where its path is given.
STRATEGYQA = os.environ.get("NASA_INTERP_STRATEGYQA")

# %%
model = ni.load_model(os.environ.get("NASA_INTERP_MODEL") or "demo")
probe = ni.load_questions("builtin:verify#probe")
data = {}
for group in dict.fromkeys(q.group for q in probe):
    data[group] = QuestionList([q for q in probe if q.group == group], f"verify, {group}")
if STRATEGYQA:
    data["strategyqa"] = QuestionList(ni.load_questions(f"strategyqa:{STRATEGYQA}"), "StrategyQA")
scores = {name: ni.score_heads(model, questions, limit=LIMIT, progress=False) for name, questions in data.items()}
Markdown(
    f"{len(data)} sets: {', '.join(data)}. "
    + (
        ""
        if "strategyqa" in data
        else "StrategyQA is not at hand here and was left out; NASA_INTERP_STRATEGYQA names it."
    )
)

# %% [markdown]
# ## The top ten of each, by polarity

# %%
tops = {name: [str(head) for head in each.top(10, "polarity")] for name, each in scores.items()}
pd.DataFrame.from_dict(tops, orient="index").transpose()

# %% [markdown]
# ## Every two of them
#
# `expected` is what two random rankings would share; `p` the probability that they share as many or more. With so many
# pairs, compare `p` with 0.05 divided by their number.

# %%
pairs = {
    (by, a, b): ni.scoring.rank_overlap(scores[a], scores[b], 10, by)
    for by in ("values", "polarity")
    for a, b in combinations(scores, 2)
}
overlaps = pd.DataFrame(
    [(*key, len(o.shared), o.expected, o.p, o.spearman) for key, o in pairs.items()],
    columns=["by", "a", "b", "shared", "expected", "p", "spearman"],
)
overlaps.groupby("by")[["shared", "expected", "p", "spearman"]].mean().round(4)

# %% [markdown]
# That was the mean over the pairs. How many of ten each two share, by polarity:

# %%
by_polarity = overlaps[overlaps.by == "polarity"]
mirrored = pd.concat([by_polarity, by_polarity.rename(columns={"a": "b", "b": "a"})])
mirrored.pivot(index="a", columns="b", values="shared").reindex(index=list(scores), columns=list(scores)).astype(
    "Int64"
)

# %% [markdown]
# ## The two that agree least
#
# If the claim fails anywhere, it is here.

# %%
worst = by_polarity.sort_values(["shared", "spearman"]).iloc[0]
one, other = scores[worst.a], scores[worst.b]
figure = overlap_scatter(pairs["polarity", worst.a, worst.b], one, other)
keep(figure, "overlap_least", one.run, other.run, overlaps=overlaps)

# %% [markdown]
# ## So

# %%
level = 0.05 / len(by_polarity)
beyond = int((by_polarity.p < level).sum())
common = set.intersection(*(set(each.top(10, "polarity").heads) for each in scores.values()))
Markdown(
    f"Two top tens share {by_polarity.shared.mean():.1f} heads on average and {by_polarity.shared.min()} at least; "
    f"chance would give {by_polarity.expected.mean():.2f}. **{beyond} of {len(by_polarity)}** pairs are beyond chance. "
    f"{len(common)} heads are in every top ten: {', '.join(map(str, sorted(common))) or 'none'}. "
    f"On {LIMIT} questions of each set the claim "
    f"**{'stands' if beyond == len(by_polarity) else 'does not stand for every pair'}**."
)
