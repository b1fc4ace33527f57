"""A disk that is full or read-only: one sentence, nothing is broken, and it goes on."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.engine import slide_files
from tests.faults.jobs import OPTIONS, LocalRun, assert_clean, parts_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

_PAGE = 4096


class Disk:
    """A small file system of its own.

    Args:
        folder: Where it is mounted.
    """

    def __init__(self, folder):
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, n_free=0):
        """Leave so many bytes."""
        with self._ballast.open("ab") as file:
            while shutil.disk_usage(self.folder).free > n_free:
                file.write(bytes(_PAGE))
                file.flush()

    def empty(self):
        self._ballast.unlink()

    def remount(self, how):
        _mount("-o", f"remount,{how}", self.folder)


def _mount(*arguments):
    command = [shutil.which("mount") or "mount", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


@pytest.fixture
def disk(tmp_path):
    """4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = _mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", folder)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield Disk(folder)
    umount = shutil.which("umount") or "umount"
    subprocess.run([umount, "--lazy", str(folder)], check=True)  # noqa: S603


@pytest.fixture
def job(cluster, campaign):
    """Run a job; its exit code and all that it said."""
    cluster.command("heal")

    def run(*arguments):
        campaign.run()
        out, complaints = (process := cluster.start(*arguments)).communicate(
            timeout=300
        )
        return process.returncode, f"{out}\n{complaints}"

    return run


def assert_a_sentence(answer, code, *texts):
    found, printed = answer
    assert found == code, printed
    assert "Traceback" not in printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith("raylatent: error: "), printed
    for text in texts:
        assert text in last


FULL = ("No space left on device", "make room and run again")


@pytest.mark.campaign
def test_full_while_parts_are_written(disk, job, arguments, expected_rows, campaign):
    run = LocalRun(disk.folder / "run")
    disk.fill(60_000)
    campaign.fault("storage: disk full during a part")
    answer = job(*arguments, "--out", run.uri)
    assert_a_sentence(answer, 1, "cannot write", *FULL)
    kept = parts_of(run)
    assert 0 < len(kept) < 13
    assert_clean(run)
    disk.empty()
    code, printed = job(*arguments, "--out", run.uri)
    assert code == 0, printed
    campaign.audit(run.uri, expected_rows)
    after = parts_of(run)
    assert {name: after[name] for name in kept} == kept
    assert_clean(run)


@pytest.mark.campaign
def test_full_while_a_tfrecord_is_written(disk, job, tmp_path, campaign):
    """Its tiles fit, and then it does not."""
    slide = slide_files.write_slide(tmp_path / "a.tif", 1)
    plain = slide_files.plain_tfrecord(
        tmp_path / "plain.tfrecords", slide_files.plain_slide(slide), img_format="png"
    )
    given = ("extract_tiles", "--slides", slide, "--tile-px", 96, "--tile-um", 48)
    run = LocalRun(disk.folder / "run")
    disk.fill(plain.stat().st_size * 3 // 2)
    campaign.fault("storage: disk full during a part")
    more = ("--img-format", "png", "--unit-tiles", 16, "--out", run.uri)
    assert_a_sentence(job(*given, *more), 1, "cannot write", *FULL)
    assert_clean(run)
    assert not [name for name in run.files() if name.endswith(".tfrecords")]
    disk.empty()
    code, printed = job(*given, *more)
    assert code == 0, printed
    assert run.read("96px_48um/a.tfrecords") == plain.read_bytes()
    assert_clean(run)


@pytest.fixture(scope="module")
def made(tmp_path_factory, cluster, slow_source, slow_model):
    """A finished run with map and mosaic."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    cluster.command("heal")
    inputs = ("--tfrecords", slow_source, "--model", slow_model, *OPTIONS)
    for given in (
        ("activations", *inputs),
        ("map", "--n-neighbors", 10),
        ("mosaic", "--num-tiles-x", 8, "--cell-px", 24),
    ):
        process = cluster.start(*given, "--out", folder)
        printed = process.communicate(timeout=300)
        assert process.returncode == 0, printed
    return folder


@pytest.fixture
def finished(made, disk):
    """The same, on the disk."""
    return LocalRun(shutil.copytree(made, disk.folder / "run"))


@pytest.mark.campaign
def test_full_while_a_map_is_written(finished, disk, job, campaign):
    for n_free in (0, 40_000):
        disk.fill(n_free)
        campaign.fault("storage: disk full during the map")
        answer = job("map", "--n-neighbors", 12, "--out", finished.uri)
        assert_a_sentence(answer, 1, "cannot write", *FULL)
        disk.empty()
    code, printed = job("map", "--n-neighbors", 12, "--out", finished.uri)
    assert code == 0, printed
    code, printed = job("mosaic", "--num-tiles-x", 8, "--out", finished.uri)
    assert code == 0, printed
    code, printed = job("verify", "--out", finished.uri)
    assert code == 0, printed
    assert_clean(finished)


@pytest.mark.campaign
def test_full_while_a_picture_is_written(finished, disk, job, campaign):
    pictures = ("maps/default/umap.png", "mosaics/default/mosaic.png")
    before = {name: finished.read(name) for name in pictures}
    disk.fill()
    for verb, *options in (
        ("map", "--n-neighbors", 10),
        ("mosaic", "--num-tiles-x", 9, "--cell-px", 24),
    ):
        campaign.fault("storage: disk full during a picture")
        answer = job(verb, *options, "--out", finished.uri)
        assert_a_sentence(answer, 1, "cannot write", *FULL)
    assert {name: finished.read(name) for name in pictures} == before
    assert_clean(finished)


@pytest.mark.campaign
def test_read_only(finished, disk, job, arguments, campaign):
    before = finished.files()
    disk.remount("ro")
    for given in (
        (*arguments, "--out", finished.uri),
        (*arguments, "--out", f"{finished.uri} 2"),
        ("map", "--n-neighbors", 10, "--out", finished.uri),
        ("mosaic", "--num-tiles-x", 8, "--out", finished.uri),
    ):
        campaign.fault("storage: read-only run directory")
        answer = job(*given)
        assert_a_sentence(answer, 1, "Read-only file system", "mounted read-only")
    assert finished.files() == before
    assert not Path(f"{finished.uri} 2").exists()
