"""Lost and broken parts are noticed, those of failed slides are on record."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from raylatent import schema
from raylatent.dataset_features import DatasetFeatures
from raylatent.engine.map_building import _check_complete
from raylatent.errors import BrokenPartError, MapError, RunError
from raylatent.parts import part_name, rows_digest, write_part
from raylatent.run import RunDirectory
from raylatent.seal import sealed_json
from raylatent.stored.map_points import StoredPoints

UNIT = 4


def write_unit(run, slide, unit, tiles, quarantined=0):
    vectors = np.arange(len(tiles) * 6, dtype=np.float32)
    n = len(tiles)
    table = pa.table(
        {
            "tile_index": pa.array(tiles, pa.int64()),
            "loc_x": pa.array(tiles, pa.int32()),
            "loc_y": pa.array(tiles, pa.int32()),
            "source": pa.array([0] * n, pa.int32()),
            "offset": pa.array(tiles, pa.int64()),
            "length": pa.array([9] * n, pa.int32()),
            "name": pa.nulls(n, pa.string()),
            "label": pa.nulls(n, pa.string()),
            "conv": pa.FixedSizeListArray.from_arrays(vectors, 6),
        }
    ).cast(schema.activations_schema({"conv": 6}))
    first = unit * UNIT
    last = first + n + quarantined
    footer = {
        schema.FOOTER_FIRST: str(first),
        schema.FOOTER_LAST: str(last),
        schema.FOOTER_QUARANTINED: str(quarantined),
    }
    write_part(run.store, part_name("activations", slide, unit), table, footer)


@pytest.fixture
def run(tmp_path):
    """Slides A, B of 10 tiles in 3 units; C failed without part; D all quarantined."""
    run = RunDirectory(str(tmp_path / "run"))
    settings = {
        "layers": {"conv": [3, 2]},
        "schema_version": schema.SCHEMA_VERSION,
        "fingerprint": "",
        "model": "m",
        "fields": {"tile_px": 96},
    }
    run.store.write("run.json", json.dumps(sealed_json(settings)).encode())
    sizes = {"A": 10, "B": 10, "C": 5, "D": 3}
    rows = [
        {
            **dict.fromkeys(schema.SOURCES.names),
            "source": i,
            "slide": slide,
            "kind": "tfrecords",
            "uri": f"/{slide}",
            "size": 1,
            "n_indexed": n,
        }
        for i, (slide, n) in enumerate(sizes.items())
    ]
    run.write_sources(pa.Table.from_pylist(rows, schema=schema.SOURCES))
    run.store.write("report.json", json.dumps({"failed": {"C": "lost"}}).encode())
    for slide in "AB":
        for unit, first in enumerate(range(0, 10, UNIT)):
            tiles = list(range(first, min(first + UNIT, 10)))
            bad = unit == 0
            write_unit(run, slide, unit, tiles[bad:], quarantined=int(bad))
    write_unit(run, "D", 0, [], quarantined=3)
    return run


def of(run):
    """Opened anew."""
    return RunDirectory.open(run.uri)


def check(run):
    run = of(run)
    _check_complete(run, run.footers(run.slides()))


def test_a_complete_run_is_mapped_and_a_failed_slide_is_said(run, caplog):
    check(run)
    assert "1 slides failed and lack tiles, as 'C'" in caplog.text


@pytest.mark.parametrize(("unit", "n"), [(0, 4), (1, 4), (2, 2)])
def test_a_lost_part_is_refused(run, unit, n):
    run.store.delete(part_name("activations", "B", unit))
    with pytest.raises(RunError, match=f"slide 'B' lacks {n} of 10 tiles: run"):
        check(run)
    dts = DatasetFeatures.open(run.uri)
    assert len(dts.activations["A"]) == 9
    for arrays in (dts.activations, dts.locations):
        with pytest.raises(RunError, match=r"slide 'B' lacks .* run `raylatent"):
            arrays["B"]
    with pytest.raises(RunError, match="slide 'B' lacks"):
        dts.to_df()


def test_a_broken_part_is_refused(run):
    run.store.write(part_name("activations", "B", 1), b"broken")
    with pytest.raises(RunError, match="slide 'B' lacks 4 of 10 tiles"):
        check(run)
    with pytest.raises(BrokenPartError):
        DatasetFeatures.open(run.uri).activations["B"]


def test_slides_without_part_are_left_out_and_said(run, tmp_path, caplog):
    dts = DatasetFeatures.open(run.uri)
    assert dts.slides == ["A", "B", "C", "D"]
    assert dts.to_df()["slide"].tolist() == ["A"] * 9 + ["B"] * 9
    assert "1 of 4 slides have no part and are left out, as 'C'" in caplog.text
    with pytest.raises(RunError, match="no rows of slide 'C'"):
        dts.activations["C"]
    with pytest.raises(RunError, match="no rows of slide 'C'"):
        dts.to_torch(tmp_path / "bags", ["C"])
    dts.to_torch(tmp_path / "bags")
    shapes = {
        path.stem: tuple(torch.load(path, weights_only=True).shape)
        for path in (tmp_path / "bags").glob("*.pt")
    }
    assert shapes == {"A": (9, 6), "B": (9, 6), "D": (0, 6)}


def test_a_map_of_other_rows_is_refused(run):
    parts = [part for part in run.footers() if part.rows]
    info = {"format_version": 1, "rows": rows_digest(parts)}
    run.store.write("maps/default/map.json", json.dumps(sealed_json(info)).encode())
    folder = f"{run.uri}/maps/default"
    StoredPoints(folder, of(run)).check_rows()
    write_unit(run, "A", 2, [8])
    with pytest.raises(MapError, match="of other rows than the run has now"):
        StoredPoints(folder, of(run)).check_rows()
