"""Which parts of a map are read for what lies in a polygon or a cell."""

import numpy as np
import pytest

from raylatent.explorer import members as room
from raylatent.explorer.members import members, of_cells
from raylatent.explorer.pyramid import Square
from raylatent.stored.map_points import StoredPoints
from tests.explorer.selected_runs import mapped_run

SQUARE = Square(x=-4.0, y=-4.0, side=8.0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    run, _ = mapped_run(tmp_path_factory.mktemp("members") / "run")
    return StoredPoints(f"{run.uri}/maps/default", run)


def tiles(found):
    return [
        (row["slide"], row["tile_index"])
        for table in found
        if table is not None
        for row in table.to_pylist()
    ]


def test_boxes_of_parts_change_no_member(stored):
    boxes, total = {}, 0
    for level, side in ((0, 1), (0, 4), (3, 8)):
        grid = SQUARE.grid(level)
        for row in range(8 // side << level):
            for col in range(8 // side << level):
                where, box = of_cells(grid, row, col, side)
                own = tiles(members(stored, where, within=box, boxes=boxes))
                assert own == tiles(members(stored, where)), (level, row, col)
                total += len(own)
    assert total == 3 * stored.n_points
    assert set(boxes) == {name for _, name in stored.part_names}


def test_parts_apart_from_what_is_asked_for_are_read_once(stored, monkeypatch):
    boxes, read = {}, []
    whole = room.read_part

    def counted(store, name, columns):
        read.append(name)
        return whole(store, name, columns)

    monkeypatch.setattr(room, "read_part", counted)
    n = len(stored.part_names)
    where, box = of_cells(SQUARE.grid(5), 0, 0)  # a corner without points
    assert list(members(stored, where, within=box, boxes=boxes)) == [None] * n
    assert len(read) == n
    assert list(members(stored, where, within=box, boxes=boxes)) == [None] * n
    assert len(read) == n
    where, box = of_cells(SQUARE.grid(0), 0, 0, 8)
    assert len(tiles(members(stored, where, within=box, boxes=boxes))) == 100
    assert len(read) == 3 * n


def test_a_part_with_a_place_that_is_not_known_is_read_every_time():
    nowhere = (np.nan, 0.0, np.nan, 1.0)
    assert not room._apart(nowhere, (5.0, 0.0, 6.0, 1.0))
    assert room._apart((0.0, 0.0, 1.0, 1.0), (1.5, 0.0, 2.0, 1.0))
    assert not room._apart((0.0, 0.0, 1.0, 1.0), (1.0, 1.0, 2.0, 2.0))
