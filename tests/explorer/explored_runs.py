"""Runs of whole slides that an explorer is made of, here and without a cluster."""

import io
import json

from PIL import Image

from raylatent import schema
from raylatent.config import ExploreConfig
from raylatent.engine import explore
from raylatent.map_job import run_explore
from raylatent.parts import write_part
from raylatent.run import RunDirectory
from raylatent.run.settings import RUN_JSON, settings_text
from tests.engine.slide_files import write_slide
from tests.explorer.selected_runs import mapped_run
from tests.stored_maps import LAYER

CELL_PX = 16


def run_of_slides(folder, slides, *, predictions=True):
    """A run with a map of tiles of one slide's file, as if of several; and its points."""
    file = write_slide(folder / "file.tif", 1, width=900, height=1700)
    about = {"window_px": 20, "tile_px": 20, "mpp": 0.5, "uri": str(file)}
    run, points = mapped_run(folder / "run", slides, **about)
    fields = {
        "dtype": "float16",
        "predictions": predictions,
        "softmax": True,
        "tile_px": 20,
    }
    more = {"layers": {LAYER: [6]}, "num_classes": 3}
    run.store.write(RUN_JSON, settings_text(fields, more))
    for slide in slides:
        made = {schema.FOOTER_GRID: json.dumps({"geometry": {"width": 9, "height": 7}})}
        write_part(run.store, run.grid_part(slide), schema.GRID.empty_table(), made)
        run.store.write(run.thumbnail(slide), thumbnail(slide))
    return RunDirectory(run.uri), points


def thumbnail(slide):
    """A JPEG that tells its slide's name in EXIF and in a comment."""
    told, data = Image.Exif(), io.BytesIO()
    told[0x010E] = slide
    Image.new("RGB", (9, 7), "pink").save(data, "JPEG", exif=told, comment=slide)
    return data.getvalue()


def explored(run, out, monkeypatch, **options):
    """The folder of a run's explorer, made by this process alone."""
    monkeypatch.setattr(
        explore, "spread", lambda work, calls, **_: (work(*c) for c in calls)
    )
    config = ExploreConfig(
        run=run.uri, out=str(out), explorer_cell_px=CELL_PX, **options
    )
    _, facts = run_explore(config)
    return facts


def annotations(path, slides):
    """A CSV of a patient, a secret and a class for each slide."""
    rows = [
        f"{slide},patient {i % 2},{slide} secret,{'ab'[i % 2]},{i}"
        for i, slide in enumerate(slides)
    ]
    path.write_text("\n".join(["slide,patient,secret,kind,age", *rows]) + "\n", "utf-8")
    return str(path)
