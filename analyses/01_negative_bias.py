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
# # 1. The negative bias
#
# **Claim.** The embedded model says No to nearly everything, although it can tell many of the right answers from the
# wrong ones: it knows better than it says.
#
# **Look at** the *imbalance* (rate of true yes - rate of answered yes; 0 is balanced, above 0 No is said too often)
# beside the *AUC* of d = logit(No) - logit(Yes), which asks how well d sorts right from wrong whatever the threshold.
#
# **It would be refuted by** an imbalance whose interval holds 0, or by an AUC near 0.5 in every group: then No would
# only be what a model says that doesn't know.
#
# Only here and in notebook 5, after its tuning, is the test split asked. Nothing is chosen on it.

# %%
import os

import pandas as pd
from IPython.display import Markdown
from keep import keep

import nasa_interp as ni
from nasa_interp.figures import calibration_curve, precision_recall

# Questions to ask; None asks all of the split.
LIMIT = int(os.environ.get("NASA_INTERP_LIMIT") or 0) or None

# %% [markdown]
# ## What it says
#
# Every question is asked twice, with "Yes or No" and with "No or Yes" in the instruction. An empty precision means
# that the model never says Yes, so that there is nothing to take a share of. That is why the imbalance is reported,
# too.

# %%
model = ni.load_model(os.environ.get("NASA_INTERP_MODEL") or "demo")
report = ni.decide(model, "builtin:verify#test", limit=LIMIT, progress=False)
columns = ["part", "n", "accuracy", "precision", "recall", "imbalance", "mean_logit_difference", "answer_mass"]
report.summary_dataframe()[columns].round(3)

# %%
Markdown("\n\n".join([report.verdict, *report.warnings]))

# %% [markdown]
# ## Where the decisions fall
#
# Two heaps that lie apart, both right of the dashed line: the model tells them apart, and says No all the same.

# %%
keep(ni.figures.decision_histogram(report), "bias_decisions", report.run, measures=report.summary_dataframe())

# %%
keep(precision_recall(report), "bias_precision_recall", report.run, measures=report.summary_dataframe())

# %% [markdown]
# ## What it knows
#
# The AUC within one group and one candidate order, where nothing else shifts the threshold. Groups whose interval lies
# above 0.5 are those that the model can tell apart; about the others, No is all it has to say.

# %%
cells = [
    {
        "group": group,
        "order": order,
        "n": cell.n,
        "auc": cell.auc,
        "low": cell.low.auc,
        "high": cell.high.auc,
        "accuracy": cell.accuracy,
        "oracle_accuracy": cell.oracle_accuracy,
        "yes_rate": cell.yes_rate,
    }
    for group, by_order in report.cells.items()
    for order, cell in by_order.items()
]
known = pd.DataFrame(cells).sort_values("auc", ascending=False, ignore_index=True)
known.round(3)

# %% [markdown]
# `oracle_accuracy` is that of the best single threshold, chosen on these very questions: an upper bound on what any
# shift of the threshold could give, and too high by luck where the questions are few.
#
# ## May its probabilities be believed?
#
# On the diagonal the model's word would be as good as it sounds. Far above it: yes is right more often than it says.

# %%
keep(calibration_curve(report), "bias_calibration", report.run, ece=report.ece)

# %% [markdown]
# ## Is it only the logits?
#
# The decision above compares two logits. Left to write freely, the model should show the same bias, or the claim is
# about our way of asking.

# %%
written = ni.evaluation.decide_by_generation(model, "builtin:verify#test", limit=min(LIMIT or 32, 32), progress=False)
pd.DataFrame([{**written.counts, "accuracy": written.accuracy}], index=["answers in free text"]).round(3)

# %% [markdown]
# ## So

# %%
imbalance = report.overall
# Of a few questions any score may sort all.
enough = known[known.n >= 20]
sure = enough[enough.low > 0.5]
biased = imbalance.low.imbalance > 0
few = "can't be told from so few questions"
became = "stands" if biased and len(sure) else few if enough.empty else "does not stand"
Markdown(
    f"The imbalance is {imbalance.text('imbalance')}: the model **{'is' if biased else 'is not shown to be'}** biased "
    f"toward No. Of the {len(known)} pairs of group and order, {len(enough)} hold 20 questions or more; in "
    f"**{len(sure)}** of these it sorts right from wrong better than chance "
    f"({', '.join(sure.group.unique()) or 'none'}), while it says Yes to {report.yes_rate:.0%} of the questions. "
    f"Left to write, it says yes {written.counts['yes']} times in {len(written.answers)}. "
    f"On {report.run.n_questions} questions the claim **{became}**."
)
