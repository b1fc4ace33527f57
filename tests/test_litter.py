"""Aside files of writers that are gone."""

import os

import pytest

from raylatent.claim import Claim
from raylatent.run import RunDirectory, remove_litter

HEX = "0" * 32


@pytest.fixture
def run(tmp_path):
    return RunDirectory(str(tmp_path / "run"), writer="0123456789ab")


def touch(run, name):
    run.store.write(name, b"x")
    return name


def left(run):
    return sorted(run.store.asides())


def test_files_of_dead_drivers_go(run):
    touch(run, f".0123456789ab-{HEX}.aside")
    touch(run, f"activations/slide=a/.ba9876543210-{HEX}.aside")
    touch(run, f"maps/default/.pid999999999-{HEX}.aside")
    remove_litter(run)
    assert left(run) == []


def test_what_is_not_ours_or_alive_stays(run):
    kept = [
        touch(run, "activations/mine.aside"),
        touch(run, f"maps/default/.pid{os.getpid()}-{HEX}.aside"),
        touch(run, f"nested run/activations/slide=a/.ba9876543210-{HEX}.aside"),
    ]
    remove_litter(run)
    assert left(run) == sorted(kept)


def test_what_others_left_that_died_while_taking_over_is_gone_at_the_end(run):
    run.store.write("claim.0123456789ab.json", b"{}")
    run.store.write("claim.txt", b"not ours")
    with Claim(run.store, "a"):
        pass
    assert run.store.list() == ["claim.txt"]
