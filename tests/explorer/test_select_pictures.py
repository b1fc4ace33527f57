"""`raylatent select --to png`: the tiles themselves, at their own size."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from raylatent import cli, schema
from raylatent.montage.points import as_reference
from raylatent.run import RunDirectory
from raylatent.run.settings import RUN_JSON, settings_text
from raylatent.source.index import index_tfrecord
from raylatent.source.protocol import Source, sources_table
from raylatent.source.record import parse_example
from raylatent.storage import file_stat
from tests.explorer.selected_runs import digest_of, plain_loop
from tests.stored_maps import write_map

HALF = [[-1, -1], [0.5, -1], [0.5, 2], [-1, 2]]


def mapped(folder, small_points):
    """A run of the small TFRecords with a map."""
    table, uris = small_points
    run = RunDirectory(str(folder))
    about = {"layers": {"postconv": [1]}}
    run.store.write(RUN_JSON, settings_text({"dtype": "float32"}, about))
    sources, points = [], {}
    for number, (slide, uri) in enumerate(uris.items()):
        index = index_tfrecord(uri)
        sources.append(
            Source(
                source=number,
                slide=slide,
                kind="tfrecords",
                uri=uri,
                stat=file_stat(uri),
                n_indexed=len(index.offsets),
            )
        )
        own = table.filter(pa.compute.equal(table["slide"], slide))
        ids = pa.array(np.full(len(own), number, np.int32))
        rows = as_reference(own.append_column(schema.SOURCE, ids))
        for name in (schema.X, schema.Y):
            rows = rows.append_column(name, own[name])
        novelty = pa.nulls(len(own), pa.float32())
        rows = rows.append_column(schema.KNN_DISTANCE, novelty)
        points[slide] = rows.select(schema.POINTS.names).cast(schema.POINTS)
    run.write_sources(sources_table(sources))
    write_map(run, points)
    return run, points, uris


def test_pictures_are_the_tiles_of_the_records(tmp_path, small_points):
    run, points, uris = mapped(tmp_path / "run", small_points)
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"map": digest_of(run), "polygon": HALF}))
    argv = ["select", run.uri, str(file), "--to", "png", "--out", str(tmp_path / "t")]
    assert cli.main(argv) == 0
    expected = {
        (slide, row["tile_index"]): row
        for slide, table in points.items()
        for row in table.to_pylist()
        if plain_loop([HALF], row["x"], row["y"])
    }
    written = sorted((tmp_path / "t").rglob("*.png"))
    assert {(path.parent.name, int(path.stem)) for path in written} == set(expected)
    assert len(written) > 20
    for path in written[::5]:
        row = expected[path.parent.name, int(path.stem)]
        data = Path(uris[path.parent.name]).read_bytes()
        start, stop = row["offset"] + 12, row["offset"] + row["length"] - 4
        image = Image.open(io.BytesIO(parse_example(data[start:stop]).image_raw))
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(image))


def test_tiles_that_are_gone_are_left_out_and_said(tmp_path, small_points, capsys):
    table, uris = small_points
    moved = {}
    for slide, uri in uris.items():
        moved[slide] = str(tmp_path / "moved" / Path(uri).name)
        Path(moved[slide]).parent.mkdir(exist_ok=True)
        Path(moved[slide]).write_bytes(Path(uri).read_bytes())
    run, points, _ = mapped(tmp_path / "run", (table, moved))
    Path(moved["g03"]).unlink()
    file = tmp_path / "p.json"
    whole = [[-1, -1], [2, -1], [2, 2], [-1, 2]]
    file.write_text(json.dumps({"map": digest_of(run), "polygon": whole}))
    argv = ["select", run.uri, str(file), "--to", "png", "--out", str(tmp_path / "t")]
    assert cli.main(argv) == 1
    said = capsys.readouterr()
    n = sum(len(table) for slide, table in points.items() if slide != "g03")
    lost = len(points["g03"])
    assert len(list((tmp_path / "t").rglob("*.png"))) == n
    assert f"error: {lost} of {n + lost} tiles could not be read" in said.err
    assert "of slide g03 is left out" in said.err
