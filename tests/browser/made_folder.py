"""An explorer's folder with made tiles, written without the package's own writer.

Tests of the page open it; the places, labels and pictures are known, since each tile has
a color of its own.
"""

import base64
import gzip
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

PAGE = Path(__file__).parents[2] / "raylatent" / "explorer" / "page"
NO_U4 = 4_294_967_295
CELL_PX = 96
TILE_PX = 120
LABELS = ("LUAD", "LUSC <b>&")
CLASSES = ("LUAD", "LUSC")
WINDOW_PX = 301
MPP = 0.5
POINTS_A_BLOCK = 512
CELLS_A_BLOCK = 256

Columns = Mapping[str, tuple[str, npt.NDArray[Any]]]


def made_points(n: int = 3_000, slides: int = 10, seed: int = 3) -> dict[str, Any]:
    """Points in two clumps, as columns of length n; slides are numbers, half a label.

    Tiles of slides with an even number are of label 0 and lie to the left.
    """
    rng = np.random.default_rng(seed)
    slide = np.sort(rng.integers(0, slides, n)).astype(np.uint32)
    tile = np.arange(n) - np.searchsorted(slide, slide)
    label = (slide % 2).astype(np.uint8)
    x = rng.normal(np.where(label == 0, -3.0, 4.0), 1.2)
    x = np.where(rng.random(n) < 0.2, rng.normal(0, 3, n), x).astype(np.float32)
    y = rng.normal(0, 2, n).astype(np.float32)
    first = rng.random(n).astype(np.float32)
    return {
        "x": x,
        "y": y,
        "loc_x": (1_000 + 300 * (tile % 40)).astype(np.int32),
        "loc_y": (2_000 + 300 * (tile // 40)).astype(np.int32),
        "slide": slide,
        "tile": tile.astype(np.uint32),
        "label": label,
        "novelty": rng.random(n).astype(np.float32),
        "pred": (first < 0.5).astype(np.uint8),
        "means": np.stack([first, 1 - first], axis=1),
    }


def slide_names(slides: int) -> list[str]:
    """Names that break pages that do not take care, in order."""
    return [f"{i:03d} a'b<script>\"&=%20 ü" for i in range(slides)]


def tile_color(slide: int, tile: int) -> tuple[int, int, int]:
    """The color of the whole picture of a tile."""
    return (40 + (slide * 53) % 200, 40 + (tile * 37) % 200, 40 + (tile * 11) % 200)


def morton(row: npt.NDArray[Any], col: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Codes of cells: bits of the column in the even places."""
    code = np.zeros(len(row), np.uint64)
    for bit in range(16):
        code |= ((col.astype(np.uint64) >> np.uint64(bit)) & np.uint64(1)) << np.uint64(
            2 * bit
        )
        code |= ((row.astype(np.uint64) >> np.uint64(bit)) & np.uint64(1)) << np.uint64(
            2 * bit + 1
        )
    return code


def block_script(name: str, columns: Columns) -> str:
    """A block as a script: shuffled columns, compressed, as base64."""
    raw = b""
    for kind, values in columns.values():
        plain = np.ascontiguousarray(values, np.dtype(f"<{kind}"))
        raw += plain.view(np.uint8).reshape(len(plain), -1).T.tobytes()
    n = len(next(iter(columns.values()))[1])
    about = {"n": n, "columns": [[k, kind] for k, (kind, _) in columns.items()]}
    text = base64.b64encode(gzip.compress(raw, mtime=0)).decode()
    return f"raylatent.block({json.dumps(name)}, {json.dumps(about)}, {json.dumps(text)});\n"


def write_folder(
    out: Path,
    points: Mapping[str, Any],
    *,
    levels: int = 4,
    slides: int = 10,
    bounds: Sequence[int] | None = (70, 900),
    kind: str = "all",
    points_a_block: int = POINTS_A_BLOCK,
) -> dict[str, Any]:
    """Writes the whole folder; returns its facts, as in meta.js.

    Args:
        out: The folder, which must not exist.
        points: What `made_points` gives.
        levels: Grids, from 8 cells a side.
        slides: How many slides there are.
        bounds: Of the first slide; others have none.
        kind: Whether the points are "all" or a "sample" (every tenth).
        points_a_block: Points of a block.
    """
    shutil.copytree(PAGE, out)
    (out / "server.js").write_text('"use strict";\n')
    low = np.array([points["x"].min(), points["y"].min()], np.float64)
    high = np.array([points["x"].max(), points["y"].max()], np.float64)
    side = float((high - low).max())
    names = slide_names(slides)
    meta: dict[str, Any] = {
        "version": 1,
        "run": "made",
        "fingerprint": "f00d",
        "map": {
            "name": "umap",
            "digest": "d1g357",
            "lower": low.tolist(),
            "side": side,
            "layer": "postconv",
            "tile_px": TILE_PX,
            "trustworthiness": 0.93,
        },
        "n": len(points["x"]),
        "cell_px": CELL_PX,
        "levels": [],
        "labels": {
            "column": "subtype",
            "of": "slide",
            "names": list(LABELS),
            "colors": ["#0072B2", "#E69F00"],
            "counts": np.bincount(points["label"], minlength=2).tolist(),
        },
        "classes": list(CLASSES),
        "annotations": {
            "columns": [
                {
                    "name": "subtype",
                    "kind": "category",
                    "values": [i % 2 for i in range(slides)],
                    "names": list(LABELS),
                },
                {
                    "name": "age",
                    "kind": "number",
                    "values": [None if i == 0 else 40.0 + i for i in range(slides)],
                    "names": [],
                },
            ],
            "patient": None,
        },
        "novelty": {"max": float(points["novelty"].max()), "has": True},
        "colors_of_slides": ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"]
        * slides,
        "tiles": {"slots": 4, "levels": 0},
        "created": "2026-01-01T00:00:00Z",
        "versions": {"raylatent": "0"},
    }
    meta["slides"] = [
        {
            "name": name,
            "tiles": int((points["slide"] == i).sum()),
            "thumbnail": True,
            "width": 20_000,
            "height": 16_000,
            "bounds": list(bounds) if bounds and i == 0 else None,
            "window_px": WINDOW_PX,
            "mpp": MPP,
            "tile_um": WINDOW_PX * MPP,
            "url": None,
        }
        for i, name in enumerate(names)
    ]
    for level in range(levels):
        meta["levels"].append(_write_level(out, points, low, side, level))
    meta["points"] = _write_points(out, points, low, side, kind, points_a_block)
    meta["similar"] = min(1, levels - 1)
    meta["made_similar"] = _write_similar(out, meta["similar"], points, low, side)
    (out / "slides").mkdir()
    for i in range(slides):
        Image.new("RGB", (250, 200), tile_color(i, 0)).save(out / "slides" / f"{i}.jpg")
    (out / "data" / "meta.js").write_text(f"raylatent.meta({json.dumps(meta)});\n")
    return meta


def _write_level(
    out: Path, points: Mapping[str, Any], low: npt.NDArray[Any], side: float, level: int
) -> dict[str, Any]:
    """Cells, counts by slide and pictures of one grid; its facts."""
    grid = 8 * 2**level
    col, row = (
        np.minimum(
            grid - 1, np.floor((points[axis].astype(np.float64) - low[i]) / side * grid)
        ).astype(np.int64)
        for i, axis in enumerate("xy")
    )
    codes = morton(row, col)
    order = np.argsort(codes, kind="stable")
    found, first = np.unique(codes[order], return_index=True)
    members = np.split(order, first[1:])
    table = _cells(points, members, row, col)
    if level == 0:
        _write_tiles(out, table)
    blocks = []
    folder = out / "data" / "cells" / str(level)
    folder.mkdir(parents=True)
    for b, start in enumerate(range(0, len(found), CELLS_A_BLOCK)):
        part = {k: (t, v[start : start + CELLS_A_BLOCK]) for k, (t, v) in table.items()}
        name = f"cells/{level}/{b}"
        (out / "data" / f"{name}.js").write_text(block_script(name, part))
        blocks.append({"first": int(found[start]), "cells": len(part["row"][1])})
    pairs, n = np.unique(
        np.stack([row * grid + col, points["slide"]], axis=1),
        axis=0,
        return_counts=True,
    )
    counts = {"cell": ("u4", pairs[:, 0]), "slide": ("u4", pairs[:, 1]), "n": ("u4", n)}
    path = out / "data" / "slides" / f"{level}.js"
    path.parent.mkdir(exist_ok=True)
    path.write_text(block_script(f"slides/{level}", counts))
    return {
        "level": level,
        "cells": len(found),
        "slides": True,
        "most": int(table["n"][1].max()),
        "blocks": blocks,
        "tiles_stored": False,
        "pictures": _write_pictures(out, table, level),
    }


def _cells(
    points: Mapping[str, Any],
    members: Sequence[npt.NDArray[Any]],
    row: npt.NDArray[Any],
    col: npt.NDArray[Any],
) -> dict[str, tuple[str, npt.NDArray[Any]]]:
    """The columns of a level's cells: the tile of each is its first member."""
    pick = np.array([m[0] for m in members])
    slides = [np.bincount(points["slide"][m]) for m in members]
    labels = np.array([np.bincount(points["label"][m], minlength=2) for m in members])
    means = np.array([points["means"][m].mean(axis=0) for m in members])
    n = np.array([len(m) for m in members])
    none = np.full(len(n), NO_U4)
    return {
        "row": ("u4", row[pick]),
        "col": ("u4", col[pick]),
        "n": ("u4", n),
        "slides": ("u4", np.array([np.count_nonzero(s) for s in slides])),
        **{k: ("u4", points[k][pick]) for k in ("slide", "tile")},
        **{k: ("i4", points[k][pick]) for k in ("loc_x", "loc_y")},
        **{k: ("f4", points[k][pick]) for k in ("x", "y")},
        "label": ("u1", labels.argmax(axis=1)),
        "share": ("f4", labels.max(axis=1) / n),
        "top_slide": ("u4", np.array([s.argmax() for s in slides])),
        "top_share": ("f4", np.array([s.max() for s in slides]) / n),
        "novelty": ("f4", np.array([points["novelty"][m].mean() for m in members])),
        "pred": ("u2", means.argmax(axis=1)),
        "pred_mean": ("f4", means.max(axis=1)),
        "level": ("u1", np.zeros(len(n))),
        "of": ("u4", n),
        "distance": ("f4", np.zeros(len(n))),
        "tied": ("u4", np.ones(len(n))),
        "picture": ("u4", none),
        "slot": ("u1", np.full(len(n), 255)),
        "width": ("u2", np.zeros(len(n))),
        "height": ("u2", np.zeros(len(n))),
        **{f"count_{i}": ("u4", labels[:, i]) for i in range(labels.shape[1])},
        **{f"mean_{i}": ("f4", means[:, i]) for i in range(means.shape[1])},
    }


def _write_tiles(out: Path, cells: Columns) -> None:
    """The tiles of the first 16 cells at their own size, in one picture."""
    image = Image.new("RGB", (4 * TILE_PX, 4 * TILE_PX), "white")
    for slot in range(min(16, len(cells["row"][1]))):
        slide, tile = (int(cells[name][1][slot]) for name in ("slide", "tile"))
        left, top = (slot % 4) * TILE_PX, (slot // 4) * TILE_PX
        box = (left, top, left + TILE_PX, top + TILE_PX)
        image.paste(tile_color(slide, tile), box)
        cells["picture"][1][slot] = 0
        cells["slot"][1][slot] = slot
        cells["width"][1][slot] = cells["height"][1][slot] = TILE_PX
    (out / "tiles" / "0").mkdir(parents=True)
    image.save(out / "tiles" / "0" / "0.jpg", quality=90)


def _write_pictures(out: Path, cells: Columns, level: int) -> str:
    """The blocks of 8 x 8 cells as pictures; the bitmap of those that there are."""
    across = 2**level
    bits = bytearray(math.ceil(across * across / 8))
    blocks: dict[tuple[int, int], Image.Image] = {}
    for row, col, slide, tile in zip(
        *(cells[name][1].tolist() for name in ("row", "col", "slide", "tile")),
        strict=True,
    ):
        at = (col >> 3, across - 1 - (row >> 3))
        image = blocks.setdefault(
            at, Image.new("RGB", (8 * CELL_PX, 8 * CELL_PX), "white")
        )
        left, top = (col & 7) * CELL_PX, (7 - (row & 7)) * CELL_PX
        image.paste(tile_color(slide, tile), (left, top, left + CELL_PX, top + CELL_PX))
        bit = at[1] * across + at[0]
        bits[bit >> 3] |= 1 << (bit & 7)
    folder = out / "mosaic_files" / str(level + math.ceil(math.log2(8 * CELL_PX)))
    folder.mkdir(parents=True)
    for (bx, by), image in blocks.items():
        image.save(folder / f"{bx}_{by}.jpg", quality=80)
    return base64.b64encode(bytes(bits)).decode()


def _write_similar(
    out: Path, level: int, points: Mapping[str, Any], low: npt.NDArray[Any], side: float
) -> dict[int, list[int]]:
    """Cells that are called similar: the next 12 by their number, fewer at the end."""
    grid = 8 * 2**level
    col, row = (
        np.minimum(
            grid - 1, np.floor((points[axis].astype(np.float64) - low[i]) / side * grid)
        ).astype(np.int64)
        for i, axis in enumerate("xy")
    )
    cells = np.unique(row * grid + col)
    others = np.full((len(cells), 12), NO_U4)
    for k in range(12):
        others[: len(cells) - 1 - k, k] = cells[k + 1 :]
    columns = {"cell": ("u4", cells)}
    columns |= {f"s{k}": ("u4", others[:, k]) for k in range(12)}
    path = out / "data" / "similar" / f"{level}.js"
    path.parent.mkdir()
    path.write_text(block_script(f"similar/{level}", columns))
    return {
        int(cell): [int(v) for v in row if v != NO_U4]
        for cell, row in zip(cells, others, strict=True)
    }


def _write_points(
    out: Path,
    points: Mapping[str, Any],
    low: npt.NDArray[Any],
    side: float,
    kind: str,
    a_block: int,
) -> dict[str, Any]:
    """The points in order of their place; the facts of their blocks."""
    x, y = (
        np.minimum(
            65_535, np.floor((points[axis].astype(np.float64) - low[i]) / side * 65_536)
        )
        for i, axis in enumerate("xy")
    )
    order = np.lexsort((points["tile"], points["slide"], morton(y, x)))
    order = order[:: 1 if kind == "all" else 10]
    kinds = ("f4", "f4", "i4", "i4", "u4", "u4", "u1", "f4", "u1")
    names = ("x", "y", "loc_x", "loc_y", "slide", "tile", "label", "novelty", "pred")
    (out / "data" / "points").mkdir()
    blocks = []
    for b, start in enumerate(range(0, len(order), a_block)):
        part = order[start : start + a_block]
        columns = {k: (t, points[k][part]) for k, t in zip(names, kinds, strict=True)}
        (out / "data" / "points" / f"{b}.js").write_text(
            block_script(f"points/{b}", columns)
        )
        xs, ys = points["x"][part], points["y"][part]
        box = [float(v) for v in (xs.min(), ys.min(), xs.max(), ys.max())]
        blocks.append({"n": len(part), "bbox": box})
    return {"kind": kind, "n": len(order), "blocks": blocks}


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]), made_points(), kind=(*sys.argv[2:], "all")[0])
