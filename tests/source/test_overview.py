"""Pictures of slides with their tiles."""

from types import SimpleNamespace

import numpy as np
import pytest

from raylatent.source.wsi import Geometry, selection, thumbnail

GREEN, WHITE = (0, 160, 70), (255, 255, 255)


@pytest.fixture
def draw(monkeypatch):
    """A thumbnail of a white slide of 4000 x 2000 pixels, 400 wide."""
    white = np.full((200, 400, 3), 255, np.uint8)
    monkeypatch.setattr(selection, "whole", lambda handle, size: white)
    handle = SimpleNamespace(dimensions=(4000, 2000))

    def drawn(window_px, stride_px, keep):
        geometry = Geometry(
            tile_px=64,
            window_px=window_px,
            stride_px=stride_px,
            mpp=0.5,
            width=4000,
            height=2000,
        )
        kept = geometry.empty_grid()
        kept[keep] = True
        return np.asarray(thumbnail(handle, 400, geometry, kept)).astype(int)

    return drawn


def is_edge(picture):
    return (np.abs(picture - GREEN) < 3).all(axis=2)


def test_tiles_apart_have_each_its_outline(draw):
    picture = draw(400, 400, np.s_[1:3, 1:4])
    edge = is_edge(picture)
    rows, cols = np.nonzero(edge)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (40, 119, 40, 159)
    assert edge[40:120, 80].all()
    assert edge[40:120, 119].all()


@pytest.mark.parametrize(("window", "stride"), [(400, 100), (400, 25), (30, 30)])
def test_the_slide_is_seen_below_many_or_overlapping_tiles(draw, window, stride):
    picture = draw(window, stride, np.s_[2:30, 4:40])
    edge = is_edge(picture)
    shaded = (picture != WHITE).any(axis=2)
    assert edge.sum() < 0.3 * shaded.sum()
    rows, cols = np.nonzero(shaded)
    top, bottom, left, right = rows.min(), rows.max(), cols.min(), cols.max()
    assert edge[top, left : right + 1].all()
    assert edge[top : bottom + 1, right].all()
    inside = picture[top + 1 : bottom, left + 1 : right]
    assert (inside > 200).all(axis=2).any(axis=1).all()
    assert not is_edge(inside).any()
    # Nothing beyond the tiles is drawn on.
    assert top == pytest.approx(2 * stride / 10, abs=1)
    assert left == pytest.approx(4 * stride / 10, abs=1)


def test_without_tiles_nothing_is_drawn(draw):
    assert (draw(400, 100, np.s_[0:0]) == 255).all()
