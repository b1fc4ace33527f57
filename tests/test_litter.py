"""What killed processes left goes: temporary files, and folders of benchmarks."""

import os

import pytest

from raylatent.claim import Claim
from raylatent.run import RunDirectory, remove_litter
from raylatent.run.directory import remove_scratch, scratch
from raylatent.storage import Store

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


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_what_was_made_for_it_goes(tmp_path, error):
    (tmp_path / "mine").mkdir()

    def use():
        with scratch(str(tmp_path / "mine/a/b/run")) as store:
            store.write("0/part", b"x")
            if error:
                raise error

    if error:
        with pytest.raises(error):
            use()
    else:
        use()
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_what_others_put_there_stays(tmp_path):
    with scratch(str(tmp_path / "a/run")) as store:
        store.write("part", b"x")
        (tmp_path / "a/other").write_text("x")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "other"]


def test_a_folder_that_was_there_stays(tmp_path):
    with scratch(str(tmp_path)) as store:
        store.write("part", b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by", ["the next job", "the next benchmark"])
def test_folders_of_processes_that_were_killed_are_removed(tmp_path, by):
    store = Store(str(tmp_path))
    with scratch(str(tmp_path)) as mine:
        alive = mine.uri.rsplit("/", 1)[-1]
    before = alive.removesuffix(f"pid{os.getpid()}")
    dead, elsewhere = (
        f"{before}pid999999999",
        "bench-0123456789ab-01234567-pid999999999",
    )
    for folder in (dead, alive, elsewhere, "bench-mine", "activations"):
        store.write(f"{folder}/0/part", b"x")
    if by == "the next job":
        remove_litter(RunDirectory(str(tmp_path)))
    else:
        remove_scratch(store)
    left = ["activations", "bench-mine", alive, elsewhere]
    assert sorted(store.root_folders()) == sorted(left)
