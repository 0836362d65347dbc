"""What the model says of a prompt, as plainly as it can be written: one unpadded forward pass of transformers each."""

import numpy as np
import torch


@torch.no_grad()
def plain_differences(hf, prompts):
    """logit(No) - logit(Yes) of every prompt, alone, and the range of its logits; `hf` may be anything callable."""
    d, reach = [], []
    for tokens, last in zip(prompts.tokens, prompts.last_pos.tolist(), strict=True):
        logits = hf(tokens[None, : last + 1], use_cache=False).logits[0, -1].double()
        d.append(float(logits[prompts.no_token] - logits[prompts.yes_token]))
        reach.append(float(logits.max() - logits.min()))
    return np.array(d), np.array(reach)


def assert_true(found, hf, prompts, tolerance=1e-4):
    """The found differences are those of plain passes, within this share of each prompt's range of logits."""
    d, reach = plain_differences(hf, prompts)
    assert np.abs(found - d).max() <= tolerance * reach.max(), (found, d)
    assert (np.abs(found - d) <= tolerance * reach).all(), (found, d)
