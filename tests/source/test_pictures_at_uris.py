"""Folders of pictures in an object store: listed, read, changed as local ones."""

import pytest

from raylatent.errors import StorageError
from raylatent.source.pictures import PictureFolders, find_pictures
from raylatent.tiles.fetch import stored_tiles
from tests.faults.disturbed import bucket, s3  # noqa: F401  (fixtures)
from tests.source.test_pictures import (
    CLASS_FOLDERS,
    list_pictures,
    put,
    tiles_of,
    units_of,
)

pytestmark = pytest.mark.slow

NAMES = ("TUM/s1_x1_y2.png", "NORM/s1_x3_y4.png", "NORM/s é_x5_y6.png")


def test_pictures_in_an_object_store(s3, bucket, tmp_path):  # noqa: F811
    local = put(tmp_path, *NAMES)
    for name in (*NAMES, "NORM/notes.txt"):
        path = tmp_path / name
        content = path.read_bytes() if path.exists() else b"text"
        s3.put(bucket, f"tiles/{name}", content)
    root = f"s3://{bucket}/tiles"
    ours, theirs = (find_pictures([r], CLASS_FOLDERS) for r in (root, local))
    assert list(ours) == list(theirs) == ["s é", "s1"]
    _, (unit,) = units_of(ours["s1"])
    _, (same,) = units_of(theirs["s1"])
    assert [t.content for t in tiles_of(unit)] == [t.content for t in tiles_of(same)]
    assert unit.columns() == same.columns()
    kind = PictureFolders()
    kind.refuse_changed(unit)
    rows = [{"name": name} for name in unit.columns()["name"].to_pylist()]
    places = [kind.place(unit.source, root, row, icc=False) for row in rows]
    assert {size for _, tile in stored_tiles(places, 8) for size in tile.size} == {8}
    before = list_pictures(ours["s1"]).stat
    s3.put(bucket, f"tiles/{NAMES[0]}", b"another picture")
    assert list_pictures(ours["s1"]).stat != before
    with pytest.raises(StorageError, match="has changed since it was listed"):
        kind.refuse_changed(unit)
