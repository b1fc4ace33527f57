"""Killed anywhere, by seed: started again it has the rows of a run never disturbed."""

import pytest

from tests.faults.death import ACTOR, DRIVER, NODE, SEEDS

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    "kind",
    [
        DRIVER,
        *(pytest.param(kind, marks=pytest.mark.campaign) for kind in (NODE, ACTOR)),
    ],
)
def test_killed_once_of_each_kind(disturb, kind):
    disturb(f"quick {kind}", kind)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_a_moment_drawn_from_a_seed(disturb, seed):
    disturb(seed)
