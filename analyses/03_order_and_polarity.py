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
# # 3. Order against polarity
#
# **Claim.** In the order "Yes or No", No is also the candidate that stands last. Much of a high score is attention to
# whatever stands last: name the candidates the other way round, and heads near the top of the paper's ranking change
# their sign.
#
# **Look at** each head's score in both orders. With y in "Yes or No" and n in "No or Yes", *polarity* = (y + n) / 2 is
# attention to No wherever it stands, *recency* = (y - n) / 2 attention to the later candidate. The split is ours.
#
# **It would be refuted by** points that lie along the vertical axis (no recency), and by leading heads that all keep
# their sign.

# %%
import os

import numpy as np
from IPython.display import Markdown
from keep import keep

import nasa_interp as ni
from nasa_interp.figures import polarity_against_recency

# Questions to score on.
LIMIT = int(os.environ.get("NASA_INTERP_LIMIT") or 240)

# %%
model = ni.load_model(os.environ.get("NASA_INTERP_MODEL") or "demo")
scores = ni.score_heads(model, "builtin:verify#probe", limit=LIMIT, progress=False)
leading = scores.top(10)
Markdown(repr(scores))

# %% [markdown]
# ## Every head as a point
#
# Up: attends to No. Right: attends to the later candidate. Marked: the top ten by the paper's score.

# %%
frame = scores.to_dataframe().set_index("head")
frame["yes_no"], frame["no_yes"] = frame["values"], frame["polarity"] - frame["recency"]
# Two standard errors of the mean over questions: a sign counts where they don't reach across 0.
per_question = scores.per_prompt["no_yes"].reshape(scores.run.n_questions, -1)
error = 2 * per_question.std(0) / np.sqrt(scores.run.n_questions)
frame["changes_sign"] = (frame.yes_no > 0) & (frame.no_yes + error < 0)
frame["keeps_sign"] = (frame.yes_no > 0) & (frame.no_yes - error > 0)
columns = ["yes_no", "no_yes", "polarity", "polarity_low", "polarity_high", "recency", "recency_low", "recency_high"]
top = frame.loc[[str(head) for head in leading], [*columns, "changes_sign", "keeps_sign"]]
keep(polarity_against_recency(scores, leading), "order_and_polarity", scores.run, top=top.reset_index())

# %% [markdown]
# ## Which of the leading heads change sign?

# %%
top.round(3)

# %% [markdown]
# ## And over all heads
#
# How far do the two orders agree on the ranking? And how many heads whose polarity differs from 0 (the interval
# doesn't hold it) attend to No, how many to Yes?

# %%
agreement = frame[["yes_no", "no_yes"]].corr("spearman").loc["yes_no", "no_yes"]
counts = {
    "heads": len(frame),
    "positive_at_first_and_negative_in_the_other_order": int(frame.changes_sign.sum()),
    "to_no_wherever_it_stands": int((frame.polarity_low > 0).sum()),
    "to_yes_wherever_it_stands": int((frame.polarity_high < 0).sum()),
    "more_recency_than_polarity": int((frame.recency.abs() > frame.polarity.abs()).sum()),
    "rank_correlation_of_the_orders": round(float(agreement), 3),
}
Markdown("\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in counts.items()))

# %% [markdown]
# ## The order changes the answer, too
#
# The same questions, decided in both orders. If only polarity mattered, the two rows would be alike.

# %%
report = ni.decide(model, "builtin:verify#val", limit=LIMIT, progress=False)
decided = report.summary_dataframe().set_index("part").loc[[f"order {order}" for order in report.orders]]
decided[["n", "mean_logit_difference", "imbalance", "accuracy", "auc"]].round(3)

# %% [markdown]
# ## So

# %%
flipped = [str(head) for head in top.index[top.changes_sign]]
kept = [str(head) for head in top.index[top.keeps_sign]]
Markdown(
    f"Of the paper's top ten, **{len(flipped)}** change sign with the order ({', '.join(flipped) or 'none'}), and "
    f"{len(kept)} attend to No wherever it stands ({', '.join(kept) or 'none'}). "
    f"In {counts['more_recency_than_polarity']} of {len(frame)} heads recency is larger than polarity. "
    f"On {scores.run.n_questions} questions the claim **{'stands' if flipped else 'does not stand'}**: "
    f"rank heads by polarity, or ask in both orders."
)
