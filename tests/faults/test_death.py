"""Killed anywhere, by seed: started again it has the rows of a run never disturbed."""

import os

import pytest

from tests.faults.disturbed import KINDS

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

N_SEEDS = int(os.environ.get("RAYLATENT_CAMPAIGN_SEEDS", "50"))


@pytest.mark.parametrize("kind", KINDS)
def test_killed_once_of_each_kind(disturb, kind):
    disturb(f"quick {kind}", kind)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_killed_at_a_moment_drawn_from_a_seed(disturb, seed):
    disturb(seed)
