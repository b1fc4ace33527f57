"""Kinds of tampering with a run, and the files that must be named for each."""

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq

from raylatent import schema
from raylatent.parts import read_footer, read_part, write_part
from raylatent.seal import sealed_json
from raylatent.storage import Store
from raylatent.stored.verification import BROKEN, MISSING, WRONG

A = "activations/slide=a/00000"
Q = "quarantine/slide=a/00000"
P = "maps/default/points/slide=a/00000"


def delete(name):
    return lambda out: (out / name).unlink()


def truncate(name):
    return lambda out: os.truncate(out / name, (out / name).stat().st_size // 2)


def copy(name, to):
    return lambda out: shutil.copy(out / name, out / to)


def rewrite(name, change):
    """A whole part with other content, its seal in order."""

    def act(out):
        store = Store(out)
        table, footer = change(read_part(store, name), read_footer(store, name)[1])
        footer.pop(schema.FOOTER_SEAL, None), footer.pop(schema.FOOTER_DIGEST, None)
        write_part(store, name, table, footer)

    return act


def edit(name, **changes):
    """A JSON file with other values, without its seal where that is among them."""

    def act(out):
        about = json.loads((out / name).read_text()) | changes
        kept = {key: value for key, value in about.items() if value is not ...}
        (out / name).write_text(json.dumps(kept))

    return act


def reseal(name, **changes):
    """A JSON file with other values, its seal in order."""

    def act(out):
        about = json.loads((out / name).read_text()) | changes
        (out / name).write_text(json.dumps(sealed_json(about)))

    return act


def put(name, data):
    return lambda out: (out / name).write_bytes(data)


def unseal(name):
    """A Parquet file with the same rows, and nothing in its footer."""

    def act(out):
        table = read_part(Store(out), name).replace_schema_metadata(None)
        pq.write_table(table, out / name)

    return act


def twice(table, footer):
    """The first tile instead of the second."""
    order = [0, 0, *range(2, len(table))]
    return table.take(order), footer


FILES = (
    *("run.json", "sources.parquet", "report.json", "manifest/activations.parquet"),
    *(f"{A}1.parquet", f"{A}3.parquet", f"{Q}0.parquet", f"{P}1.parquet"),
    *(f"maps/default/{name}" for name in ("map.json", "model.npz", "umap.png")),
    *(f"mosaics/default/{name}" for name in ("mosaic.json", "cells.parquet")),
    "mosaics/default/mosaic.png",
)

TAMPERINGS = {
    **{f"{name} truncated": (truncate(name), {(BROKEN, name)}) for name in FILES},
    **{f"{name} emptied": (put(name, b""), {(BROKEN, name)}) for name in FILES},
    **{
        f"{name} deleted": (delete(name), {(MISSING, name)})
        for name in FILES
        if not name.startswith("manifest/")
    },
    "another unit's part": (
        copy(f"{A}0.parquet", f"{A}1.parquet"),
        {(WRONG, f"{A}1.parquet")},
    ),
    "another slide's part": (
        copy("activations/slide=b é/000001.parquet", f"{A}1.parquet"),
        {(WRONG, f"{A}1.parquet")},
    ),
    "a part as the plan": (
        copy(f"{A}0.parquet", "sources.parquet"),
        {(BROKEN, "sources.parquet")},
    ),
    "a part as cells": (
        copy(f"{A}0.parquet", "mosaics/default/cells.parquet"),
        {(WRONG, "mosaics/default/cells.parquet")},
    ),
    "a part as a manifest": (
        copy(f"{A}0.parquet", "manifest/map-default.parquet"),
        {(BROKEN, "manifest/map-default.parquet")},
    ),
    "a part doubled": (
        copy(f"{A}0.parquet", f"{A}4.parquet"),
        {(WRONG, f"{A}4.parquet")},
    ),
    "doubled with its number": (
        lambda out: (
            copy(f"{A}0.parquet", f"{A}4.parquet")(out),
            rewrite(
                f"{A}4.parquet",
                lambda t, f: (t, {**f, schema.FOOTER_UNIT: "4"}),
            )(out),
        ),
        {(WRONG, f"{A}4.parquet")},
    ),
    "beyond the plan": (
        lambda out: (
            copy(f"{A}3.parquet", f"{A}4.parquet")(out),
            rewrite(
                f"{A}4.parquet",
                lambda t, f: (
                    t.set_column(0, t.schema.field(0), [np.arange(64, 68)]),
                    {
                        **f,
                        schema.FOOTER_UNIT: "4",
                        schema.FOOTER_FIRST: "64",
                        schema.FOOTER_LAST: "68",
                    },
                ),
            )(out),
        ),
        {(WRONG, f"{A}4.parquet")},
    ),
    "another fingerprint": (
        rewrite(
            f"{A}1.parquet", lambda t, f: (t, {**f, schema.FOOTER_FINGERPRINT: "0"})
        ),
        {(WRONG, f"{A}1.parquet")},
    ),
    "another source": (
        rewrite(f"{A}1.parquet", lambda t, f: (t, {**f, schema.FOOTER_SOURCE: "{}"})),
        {(WRONG, f"{A}1.parquet")},
    ),
    "other layers": (
        rewrite(f"{A}1.parquet", lambda t, f: (t, {**f, schema.FOOTER_LAYERS: "{}"})),
        {(WRONG, f"{A}1.parquet")},
    ),
    "a tile twice": (rewrite(f"{A}1.parquet", twice), {(WRONG, f"{A}1.parquet")}),
    "quarantine of another": (
        copy(f"{Q}2.parquet", f"{Q}0.parquet"),
        {(WRONG, f"{Q}0.parquet")},
    ),
    "quarantine without need": (
        copy(f"{Q}0.parquet", f"{Q}1.parquet"),
        {(WRONG, f"{Q}1.parquet")},
    ),
    "quarantine rows lost": (
        rewrite(f"{Q}0.parquet", lambda t, f: (t.slice(1), f)),
        {(WRONG, f"{Q}0.parquet")},
    ),
    "foreign files": (
        lambda out: [
            (out / name).write_bytes(b"x")
            for name in ("activations/notes.txt", "activations/slide=a/x.parquet")
        ],
        {
            ("foreign", "activations/notes.txt"),
            ("foreign", "activations/slide=a/x.parquet"),
        },
    ),
    "points of another": (
        copy(f"{P}2.parquet", f"{P}1.parquet"),
        {(WRONG, f"{P}1.parquet")},
    ),
    "points as a part of rows": (
        copy(f"{P}1.parquet", f"{A}1.parquet"),
        {(WRONG, f"{A}1.parquet")},
    ),
    "a part of rows as points": (
        copy(f"{A}1.parquet", f"{P}1.parquet"),
        {(WRONG, f"{P}1.parquet")},
    ),
    "points of another map": (
        rewrite(f"{P}1.parquet", lambda t, f: (t, {**f, schema.FOOTER_MAP: "0"})),
        {(WRONG, f"{P}1.parquet")},
    ),
    "points of other rows": (
        rewrite(f"{P}1.parquet", lambda t, f: (t.slice(1), f)),
        {(WRONG, f"{P}1.parquet")},
    ),
    "points of no row": (
        copy(f"{P}1.parquet", f"{P}9.parquet"),
        {(WRONG, f"{P}9.parquet")},
    ),
    "another picture": (
        copy("maps/default/umap.png", "mosaics/default/mosaic.png"),
        {(BROKEN, "mosaics/default/mosaic.png")},
    ),
    "mosaic.json": (
        edit("mosaics/default/mosaic.json", counts={}),
        {(BROKEN, "mosaics/default/mosaic.json")},
    ),
    "run.json changed": (edit("run.json", layers={}), {(BROKEN, "run.json")}),
    "another configuration": (
        edit("run.json", fields={}, digest=...),
        {(BROKEN, "run.json")},
    ),
    "another file of the run": (
        reseal("run.json", created="another time"),
        {(WRONG, "run.json")},
    ),
    "report changed": (edit("report.json", rows=1), {(BROKEN, "report.json")}),
    "other counts": (reseal("report.json", rows=1), {(WRONG, "report.json")}),
}

OF_SEALS = {  # without seals, or with odd content sealed again
    "report without its digest": (
        edit("report.json", reasons={"x": 1}, digest=...),
        {(BROKEN, "report.json")},
    ),
    "report of no slides": (
        reseal("report.json", by_slide=[{"slide": ["a"]}]),
        {(WRONG, "report.json")},
    ),
    "report of no numbers": (
        reseal("report.json", by_slide=[{"slide": "a", "rows": "x"}]),
        {(WRONG, "report.json")},
    ),
    "map.json without its digest": (
        edit("maps/default/map.json", frame={}, digest=...),
        {(BROKEN, "maps/default/map.json")},
    ),
    "map.json of nothing": (
        put("maps/default/map.json", b'{"format_version": 1}'),
        {(BROKEN, "maps/default/map.json")},
    ),
    "map.json of odd points": (
        reseal("maps/default/map.json", points=[1]),
        {(WRONG, "maps/default/map.json")},
    ),
    "map.json of odd counts": (
        reseal("maps/default/map.json", points={"rows": []}),
        {(WRONG, "maps/default/map.json")},
    ),
    "map.json of no files": (
        reseal("maps/default/map.json", files=1),
        {(WRONG, "maps/default/map.json")},
    ),
    "map.json of files elsewhere": (
        reseal("maps/default/map.json", files={"../../../x": "0"}),
        {(WRONG, "maps/default/map.json")},
    ),
    "mosaic.json of an odd map": (
        reseal("mosaics/default/mosaic.json", map={"name": "default", "digest": []}),
        {(WRONG, "mosaics/default/mosaic.json")},
    ),
    "a part that tells no number": (
        rewrite(
            f"{A}0.parquet", lambda t, f: (t, {**f, schema.FOOTER_QUARANTINED: "x"})
        ),
        {(WRONG, f"{A}0.parquet")},
    ),
    "mosaic.json of nothing": (
        put("mosaics/default/mosaic.json", b"{}"),
        {(BROKEN, "mosaics/default/mosaic.json")},
    ),
    "mosaic.json of no files": (
        reseal("mosaics/default/mosaic.json", files=1),
        {(WRONG, "mosaics/default/mosaic.json")},
    ),
    "mosaic.json of no counts": (
        reseal("mosaics/default/mosaic.json", counts={}),
        {(WRONG, "mosaics/default/mosaic.json")},
    ),
    **{
        f"deep {name}": (put(name, b"[" * 200_000), {(BROKEN, name)})
        for name in (
            *("run.json", "report.json"),
            *("maps/default/map.json", "mosaics/default/mosaic.json"),
        )
    },
    **{
        f"{name} without a seal": (unseal(name), {(BROKEN, name)})
        for name in (
            *(f"{A}1.parquet", f"{Q}0.parquet", f"{P}1.parquet", "sources.parquet"),
            "mosaics/default/cells.parquet",
        )
    },
    "points that tell no map": (
        rewrite(f"{P}1.parquet", lambda t, f: (t, {})),
        {(WRONG, f"{P}1.parquet")},
    ),
    "points without tiles": (
        rewrite(f"{P}1.parquet", lambda t, f: (t.drop_columns(["tile_index"]), f)),
        {(WRONG, f"{P}1.parquet")},
    ),
    **{
        f"a slide called {slide!r}": (
            rewrite(
                "sources.parquet",
                lambda t, f, slide=slide: (
                    t.set_column(
                        t.schema.get_field_index("slide"),
                        t.schema.field("slide"),
                        [["a", "c", slide]],
                    ),
                    f,
                ),
            ),
            {(BROKEN, "sources.parquet")},
        )
        for slide in ("", "__HIVE_DEFAULT_PARTITION__")
    },
    **{
        f"{name} doubled by another spelling": (
            copy(f"{name}0.parquet", f"{name}0.parquet".replace("/0", "/00")),
            {("foreign", f"{name}0.parquet".replace("/0", "/00"))},
        )
        for name in (A, Q, P)
    },
}

NEEDS_THE_MANIFEST = {
    *("other layers", "a tile twice", "other counts", "another file of the run"),
    *("report of no slides", "report of no numbers", "map.json of odd points"),
    *("mosaic.json of no files", "mosaic.json of no counts", "points without tiles"),
    "map.json of no files",
    *(f"maps/default/umap.png {harm}" for harm in ("truncated", "emptied", "deleted")),
    *("map.json of files elsewhere", "mosaic.json of an odd map"),
}
"""Other content that was sealed again, and a picture, which has no seal itself."""
