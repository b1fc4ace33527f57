"""A finished run with bad tiles, a map and a mosaic, which tests copy and damage.

conftest.py imports the fixtures, so that the run is made once in a session.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

SLIDES = {"a": (64, {3, 50}), "b é": (30, set()), "c": (5, {0})}
"""Tiles of each slide, and which of them are no pictures."""
N_TILES = sum(n for n, _ in SLIDES.values())
N_BAD = sum(len(bad) for _, bad in SLIDES.values())
UNIT_TILES = 20


@dataclass(frozen=True)
class Made:
    """A run, and the command line that made it."""

    out: Path
    sources: Path
    argv: tuple[str, ...]

    def at(self, out):
        """The same elsewhere."""
        return Made(out, self.sources, (*self.argv[:-1], str(out)))


@pytest.fixture(scope="session")
def finished_run(ray_session, small_model, small_tfrecords, tmp_path_factory):
    """The run; it must not be changed."""
    from raylatent import cli
    from raylatent.source.filebytes import iter_records
    from raylatent.source.index import index_tfrecord
    from raylatent.source.record import parse_example
    from raylatent.source.write import write_tfrecord

    root = tmp_path_factory.mktemp("verified")
    sources = root / "sources"
    sources.mkdir()
    path = str(small_tfrecords / "g03.tfrecords")
    index = index_tfrecord(path)
    tiles = [
        parse_example(payload)
        for payload in iter_records(path, index.offsets, index.lengths)
    ]
    for slide, (n, bad) in SLIDES.items():
        records = [
            replace(
                tile, slide=slide, image_raw=b"none" if i in bad else tile.image_raw
            )
            for i, tile in enumerate(tiles[:n])
        ]
        write_tfrecord(sources / f"{slide}.tfrecords", records)
    argv = (
        *("atlas", "--tfrecords", str(sources), "--model", str(small_model)),
        *("--unit-tiles", str(UNIT_TILES), "--actors", "1", "--n-neighbors", "5"),
        *("--umap", "n_epochs=20", "--num-tiles-x", "6", "--cell-px", "24"),
        # A page of few levels, whose files are looked at as all others.
        *("--max-size", "250KB", "--explorer-cell-px", "16"),
        *("--max-bad-fraction", "1", "--out", str(root / "run")),
    )
    assert cli.main(list(argv)) == 0
    return Made(root / "run", sources, argv)


@pytest.fixture
def made(finished_run, tmp_path):
    """A copy that may be damaged."""
    shutil.copytree(finished_run.out, tmp_path / "run")
    return finished_run.at(tmp_path / "run")


@pytest.fixture
def verify_here(monkeypatch):
    """Verify a run in this process, what the driver does and what its tasks do."""
    from raylatent.config import VerifyConfig
    from raylatent.engine import done, verify

    def spread(work, batches):
        return (work(*arguments) for arguments in batches)

    monkeypatch.setattr(verify, "spread", spread)
    monkeypatch.setattr(done, "spread", spread)

    def run(out, **options):
        return verify.verify_run(VerifyConfig(run=str(out), **options))

    return run


def flip(path, bit):
    """Flip one bit of a file, counted from its beginning."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(data)
