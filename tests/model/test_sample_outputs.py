"""Outputs for the two sample tiles: what is kept of them, and when they differ."""

import json
import math

import numpy as np
import pytest
import torch

from raylatent.model.sample_tiles import (
    PROJECTIONS,
    TOLERANCE,
    differing_outputs,
    summary,
)


def values(n=1000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, generator=generator)


def test_a_difference_is_told_as_a_share_of_the_norm():
    one = values(100_000)
    other = one + 0.1 * values(100_000, seed=1)
    (text,) = differing_outputs(summary({"a": one}, None), summary({"a": other}, None))
    share = float(text.removeprefix("layer 'a' by ").removesuffix(" %"))
    assert 5 < share < 18  # 16 projections tell 10 % that well


def test_any_single_feature_counts():
    one = values(300)
    kept = summary({"a": one}, None)
    for i in range(300):
        other = one.clone()
        other[1, i] += 5 * TOLERANCE * one[1].norm()
        assert differing_outputs(kept, summary({"a": other}, None))


def test_rounding_goes_on_and_shapes_do_not_matter():
    one = values().reshape(2, 10, 10, 10)
    kept = json.loads(json.dumps(summary({"a": one}, one.sum((2, 3)))))
    noisy = one * (1 + 1e-5 * values(seed=2).reshape(one.shape))
    assert differing_outputs(kept, summary({"a": noisy}, noisy.sum((2, 3)))) == []
    assert len(kept["output"]) == 2
    assert len(kept["output"][0]) == 1 + PROJECTIONS
    norm = np.linalg.norm(one[0].numpy().astype(np.float64))
    assert kept["layer 'a'"][0][0] == pytest.approx(norm, rel=1e-8)


def test_numbers_that_are_none():
    one = values()
    bad = one.clone()
    bad[0, 3] = math.nan
    kept = json.loads(json.dumps(summary({"a": bad}, None), allow_nan=False))
    assert differing_outputs(kept, summary({"a": bad}, None)) == []
    found = differing_outputs(kept, summary({"a": one}, None))
    assert found == ["layer 'a': NaN or infinite"]
    zeros = torch.zeros(2, 3)
    kept = summary({"a": zeros}, None)
    assert differing_outputs(kept, summary({"a": zeros}, None)) == []
    assert differing_outputs(kept, summary({"a": zeros + 1e-9}, None))
