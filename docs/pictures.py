"""Make the pictures of the README and the documents.

    make demo
    python docs/pictures.py out/demo CMU-1-Small-Region.svs

The first argument is the run of the demo, the second any slide that OpenSlide opens (here
a test slide of the OpenSlide project, CC0).
"""

import sys
from pathlib import Path

from PIL import Image

import raylatent as sf

FOLDER = Path(__file__).with_name("pictures")
MOST_PX = 1000


def main(run: str, slide: str) -> None:
    """Write mosaic.jpg, map.png and slide.jpg."""
    FOLDER.mkdir(exist_ok=True)
    mosaic = Image.open(Path(run) / "mosaics/default/mosaic.png").convert("RGB")
    mosaic.thumbnail((MOST_PX, MOST_PX))
    mosaic.save(FOLDER / "mosaic.jpg", quality=85)
    scatter = Image.open(Path(run) / "maps/default/umap.png").convert("RGB")
    scatter.thumbnail((MOST_PX, MOST_PX))
    scatter.quantize(128).save(FOLDER / "map.png", optimize=True)
    wsi = sf.WSI(slide, tile_px=96, tile_um=48)
    wsi.qc("otsu")
    thumb = wsi.thumb(grid=True).convert("RGB")
    thumb.thumbnail((MOST_PX, MOST_PX))
    thumb.save(FOLDER / "slide.jpg", quality=85)


if __name__ == "__main__":
    main(*sys.argv[1:])
