"""The Poisson bootstrap: a cluster's weight follows from its name, the draw and the seed, and is Poisson."""

import numpy as np
from scipy.stats import poisson

from nasa_interp.bootstrap import cluster_keys, poisson_weights


def test_weights_are_those_of_any_part_in_any_order():
    keys = cluster_keys([f"q{i}" for i in range(50)], [None] * 50)
    whole = poisson_weights(keys, range(20), 3)
    order = np.random.default_rng(0).permutation(50)
    assert np.array_equal(poisson_weights(keys[order], range(20), 3), whole[:, order])
    assert np.array_equal(poisson_weights(keys[7:9], range(5, 11), 3), whole[5:11, 7:9])
    assert not np.array_equal(poisson_weights(keys, range(20), 4), whole)


def test_twins_share_a_weight_and_nothing_else_does():
    keys = cluster_keys(["a", "b", "p", "c"], ["p", "p", None, "c"])
    assert keys[0] == keys[1]
    assert len(set(keys.tolist())) == 3  # an id isn't a pair of the same name


def test_weights_are_poisson_and_independent():
    keys = cluster_keys([str(i) for i in range(4000)], [None] * 4000)
    weights = poisson_weights(keys, range(100), 0)
    for count in range(6):
        assert abs((weights == count).mean() - poisson.pmf(count, 1)) < 2e-3
    apart = np.corrcoef(weights)[np.triu_indices(100, 1)]
    assert np.abs(apart).max() < 0.08
    assert abs(apart.std() * np.sqrt(4000) - 1) < 0.1
