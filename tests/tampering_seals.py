"""More kinds of tampering: without seals, or with odd content sealed again."""

from raylatent.run.verification import BROKEN, WRONG
from tests.tampering import A, P, Q, copy, edit, put, reseal, rewrite, unseal

OF_SEALS = {
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
    *("points that tell no map", "picture of the map"),
}
"""Other content that was sealed again, and a picture, which has no seal itself."""
