"""Bad data costs exactly the bad tiles: one job over every kind of it."""

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import save_file

from raylatent import schema
from raylatent.source.record import frame
from tests.faults import spoiled
from tests.faults.ledger import compare, stored

pytestmark = pytest.mark.ray

EMPTY = "zz-empty"  # the last: it takes no id from others
WHERE = [schema.SOURCE, schema.OFFSET, schema.LENGTH]


class Cohort:
    """A folder of TFRecords, and one of the same tiles without a fault."""

    def __init__(self, tmp_path, write_slide, plain_loop, model):
        self.folder, self.twins = tmp_path / "tfrecords", tmp_path / "twins"
        self.empty = tmp_path / "empty"  # no rows: the plain loop has none of it
        for folder in (self.folder, self.twins, self.empty):
            folder.mkdir()
        self.write, self._loop, self.model = write_slide, plain_loop, model

    def rows(self):
        """By slide, of the plain loop over the files as they are."""
        return self._loop(self.model, [self.folder])

    def assert_undisturbed(self, found, bad, **options):
        """Rows are those of the twins, without the bad ones; where they lie may differ."""
        clean = self._loop(self.model, [self.twins], **options)
        have = {s: (found[s][0].drop_columns(WHERE), None) for s in bad}
        want = {s: (_without(clean[s][0], bad[s]), None) for s in bad}
        audit = compare(have, want)
        assert audit.tiles == sum(len(rows) for rows, _ in want.values())
        assert (audit.lost, audit.doubled, audit.differing) == (0, 0, 0)


def _without(rows, bad):
    is_bad = pc.is_in(rows[schema.TILE_INDEX], value_set=pa.array(bad, pa.int64()))
    return rows.filter(pc.invert(is_bad)).drop_columns(WHERE)


@pytest.fixture
def cohort(tmp_path, write_slide, plain_loop, small_model):
    return Cohort(tmp_path, write_slide, plain_loop, small_model)


@pytest.fixture
def faulty(cohort, campaign, tiles):
    """{slide: what is wrong with its file}, all written."""
    some = tiles[16 : 16 + spoiled.N]
    faulty = {**spoiled.of_bytes(some), **spoiled.of_pictures(some)}
    for slide, one in faulty.items():
        spoiled.write(cohort.empty if slide == EMPTY else cohort.folder, slide, one)
        campaign.fault(one.fault)
        cohort.write(cohort.twins, slide, (one.twin or some)[: max(1, one.n)])
    return faulty


def check_slides(report, faulty, expected):
    """Each slide's bad tiles with their reason, and the slides that fail."""
    by_name = {slide.slide: slide for slide in report.slides}
    for name, one in faulty.items():
        slide = by_name[name]
        counts = (slide.n_indexed, slide.quarantined, slide.rows)
        assert counts == (one.n, len(one.bad), one.n - len(one.bad)), name
        assert (slide.error is None) == (one.error is None), slide.error
        assert one.error is None or one.error in slide.error
        if name != EMPTY:
            quarantine = expected[name][1].to_pylist()
            assert tuple(row[schema.TILE_INDEX] for row in quarantine) == one.bad
            for row in quarantine:
                assert re.search(one.says, row[schema.ERROR]), name


def test_every_fault_costs_its_tiles_and_no_other(
    ray_session, compute, campaign, cohort, faulty, tiles, tmp_path
):
    out, paths = tmp_path / "run", [cohort.folder, cohort.empty]
    cohort.write(cohort.folder, "grows", tiles[:25])
    cohort.write(cohort.folder, "shrinks", tiles[:45])
    report = compute(out, paths)
    campaign.run()
    expected = cohort.rows()
    campaign.audit(out, expected)
    check_slides(report, faulty, expected)
    assert report.counts["resized"] == 1
    bad = {slide: one.bad for slide, one in faulty.items() if slide != EMPTY}
    cohort.assert_undisturbed(expected, bad)
    # Two files change: what was broken stays as it is.
    cohort.write(cohort.folder, "grows", tiles[:50])
    cohort.write(cohort.folder, "shrinks", tiles[:23])
    again = compute(out, paths)
    campaign.run()
    campaign.fault("data: TFRecord grows")
    campaign.fault("data: TFRecord shrinks")
    campaign.audit(out, cohort.rows())
    check_slides(again, faulty, expected)
    assert again.counts["tiles"] == 50 + 23


NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = torch.nn.AdaptiveAvgPool2d(4)
        self.flat = torch.nn.Flatten()
        self.fc = torch.nn.Linear(48, 3)

    def forward(self, x):
        x = self.pool(x)
        x = x / x.std(dim=(1, 2, 3), keepdim=True)  # of a plain tile: 0 / 0
        return self.fc(self.flat(x))
"""


@pytest.fixture
def nan_model(tmp_path):
    """A model that has no number for tiles without contrast."""
    folder = tmp_path / "nan_model"
    folder.mkdir()
    (folder / "net_of_nan.py").write_text(NET)
    about = {"factory": "net_of_nan:Net", "weights": "weights.safetensors"}
    about |= {"tile_px": 96, "mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "model.json").write_text(json.dumps(about))
    linear = torch.nn.Linear(48, 3).state_dict()
    weights = {f"fc.{name}": values for name, values in linear.items()}
    save_file(weights, folder / "weights.safetensors")
    return str(folder)


def test_tiles_without_a_number_and_tiles_that_are_refused(
    ray_session, compute, campaign, cohort, tiles, nan_model, tmp_path
):
    plain = spoiled.picture(np.full((96, 96, 3), 127, np.uint8))
    small = spoiled.picture(spoiled.pixels_of(tiles[0])[:50])
    pictures = {"nan": {7: plain}, "sizes": {3: small, 11: small}}
    for slide, images in pictures.items():
        records = [
            replace(tile, image_raw=images.get(i, tile.image_raw))
            for i, tile in enumerate(tiles[:30])
        ]
        cohort.write(cohort.folder, slide, records)
        cohort.write(cohort.twins, slide, tiles[:30])
    campaign.fault("data: NaN-producing tile")
    campaign.fault("data: another size, refused", 2)
    out, cohort.model = tmp_path / "run", nan_model
    layers = ("flat",)
    report = compute(out, [cohort.folder], model=nan_model, layers=layers, resize=False)
    campaign.run()
    assert not report.failed
    assert report.counts["resized"] == 0
    found = stored(out)
    bad = {slide: list(images) for slide, images in pictures.items()}
    cohort.assert_undisturbed(found, bad, layers=layers)
    said = {
        (slide, row[schema.TILE_INDEX]): f"{row[schema.STAGE]}: {row[schema.ERROR]}"
        for slide, (_, quarantine) in found.items()
        for row in quarantine.to_pylist()
    }
    refused = "decode: picture of 96 x 50 px, not 96 x 96 (--resize takes it)"
    assert said == {
        ("nan", 7): "forward: activations are not finite in float32",
        ("sizes", 3): refused,
        ("sizes", 11): refused,
    }


def test_not_to_resize_is_another_run(ray_session, compute, cohort, tiles, tmp_path):
    from raylatent.errors import FingerprintError

    cohort.write(cohort.folder, "a", tiles[:3])
    compute(tmp_path / "run", [cohort.folder])
    assert compute(tmp_path / "run", [cohort.folder], resize=True).counts["tiles"] == 0
    with pytest.raises(FingerprintError, match=r"resize was .*, now false"):
        compute(tmp_path / "run", [cohort.folder], resize=False)


@pytest.mark.parametrize(
    "faults", ["data: payload flipped", "data: zero-length record"]
)
def test_the_first_tile_s_side_is_asked_of_the_next_if_it_is_bad(
    cohort, campaign, tiles, faults
):
    from raylatent.source.kinds import first_tile_px
    from raylatent.source.tfrecords import TFRecordRequest

    one = next(o for o in spoiled.of_bytes(tiles[:6]).values() if o.fault == faults)
    content = one.content
    if faults == "data: payload flipped":
        content = bytearray(one.content)
        content[100] ^= 1
    campaign.fault(faults)
    path = cohort.folder / "first.tfrecords"
    path.write_bytes(frame(b"") + content)
    assert first_tile_px({"first": TFRecordRequest(uri=str(path))}) == 96


def test_how_many_were_resized_is_said(capsys):
    from raylatent.cli.verbs import _say_slides
    from raylatent.engine.report import RunReport

    report = RunReport(
        run="run", slides=[], removed=[], counts={"resized": 1234}, seconds={}
    )
    _say_slides(report, "rows")
    assert (
        "resized   1,234 tiles of another size (--no-resize" in capsys.readouterr().out
    )
