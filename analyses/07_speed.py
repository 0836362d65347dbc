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
# # 7. Speed
#
# **Claim.** Exact scores of all heads need no attention matrix: the fused engine gives the same numbers as hooks on
# eager attention, in a fraction of the time.
#
# **Look at** the ratio of the two engines' times, and at how far their numbers differ. The seconds themselves say
# little, since other work on the machine slows both; so the engines take turns, and the ratio is taken within each
# turn.
#
# **It would be refuted by** a ratio that doesn't come out above 1, or by numbers that differ by more than rounding.

# %%
import json
import os
import time

import numpy as np
import pandas as pd
from IPython.display import Markdown
from keep import ROOT, keep

import nasa_interp as ni
from nasa_interp.figures import cost_curves

# The most questions, and how often each engine is asked.
LIMIT = int(os.environ.get("NASA_INTERP_LIMIT") or 48)
TURNS = 3

# %%
model = ni.load_model(os.environ.get("NASA_INTERP_MODEL") or "demo")
questions = ni.load_questions("builtin:verify#val", limit=LIMIT)


def timed(engine: str, n: int) -> tuple[float, ni.HeadScores]:
    """Seconds and scores."""
    start = time.perf_counter()
    found = ni.score_heads(model, questions[:n], engine=engine, progress=False)
    return time.perf_counter() - start, found


# Once each unmeasured: the first call builds the hooked view of the weights.
for engine in ("fused", "hooked"):
    timed(engine, 2)

# %% [markdown]
# ## The two engines, in turns
#
# The fused engine first checks itself against the hooked one on two prompts, and that is in its time. The more
# questions, the less it weighs.

# %%
rows, differences = [], []
for n in sorted({max(2, LIMIT // 4), max(2, LIMIT // 2), len(questions)}):
    ratios = []
    for _ in range(TURNS):
        fused_seconds, fused = timed("fused", n)
        hooked_seconds, hooked = timed("hooked", n)
        ratios.append(hooked_seconds / fused_seconds)
        differences.append(np.nanmax(np.abs(fused.values - hooked.values)))
    rows.append({"questions": n, "ratio": np.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)})
ratios = pd.DataFrame(rows)
ratios.round(2)

# %%
figure = cost_curves(
    ratios,
    "questions",
    ["ratio"],
    run=fused.run,
    title="Time of hooks on eager attention over that of the fused engine",
)
figure.update_yaxes(title="ratio of times<br>(band: least and most)")
keep(figure, "speed_ratio", fused.run, hooked.run, ratios=ratios, largest_difference=float(max(differences)))

# %% [markdown]
# ## The benchmark
#
# `make bench` sets the engine beside what one would write without it: TransformerLens's cache, eager attentions, the
# plain forward pass that reads nothing, and hooks for ablation. It takes an hour on two cores, so here is what it
# wrote.

# %%
path = ROOT / "benchmarks" / "scoring.json"
benchmark = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": [], "machine": {}}
pd.DataFrame(benchmark["rows"]).round(3)

# %%
pd.Series(benchmark["machine"], name="measured on").to_frame()

# %% [markdown]
# ## So

# %%
last, largest = ratios.iloc[-1], float(max(differences))
scale = float(np.nanmax(np.abs(hooked.values)))
faster, alike = last.ratio > 1, largest <= 1e-4 * scale
Markdown(
    f"On {last.questions:.0f} questions in both orders the hooked engine takes **{last.ratio:.1f}** times as long "
    f"(between {last.ratio_low:.1f} and {last.ratio_high:.1f} in {TURNS} turns). "
    f"The largest difference of any head's score is {largest:.1e}, where the largest score is {scale:.1f}. The claim "
    f"**{'stands' if faster and alike else 'does not stand'}**."
)
