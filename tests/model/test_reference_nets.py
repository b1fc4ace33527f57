"""Real weights of real networks, loaded through model folders."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from raylatent.model import Features

NAMES = {  # file of weights, side, mean and std of pixels scaled to 0..1
    "EfficientNetLite0": ("efficientnet-lite0-57934424.pth", 96, 127 / 255, 128 / 255),
    "ARACNN": ("ara_cnn_lublung_torch.pth", 128, 0.0, 1.0),
}


@pytest.fixture(scope="module")
def weights(test_data):
    return test_data / "data" / "weights"


@pytest.fixture(scope="module")
def reference(weights):
    path = weights / "nets_reference.py"
    spec = importlib.util.spec_from_file_location("nets_reference_by_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folders(weights, tmp_path_factory):
    """A model folder of each network."""
    made = {}
    for name, (file, px, mean, std) in NAMES.items():
        folder = tmp_path_factory.mktemp(name)
        shutil.copy(weights / "nets_reference.py", folder)
        shutil.copy(weights / file, folder)
        content = {
            "factory": f"nets_reference:{name}",
            "weights": file,
            "tile_px": px,
            "mean": mean,
            "std": std,
            "classes": 1000 if name == "EfficientNetLite0" else 9,
        }
        (folder / "model.json").write_text(json.dumps(content))
        made[name] = folder
    yield made
    sys.modules.pop("nets_reference", None)


@pytest.fixture(scope="module")
def tissue(test_data):
    """20 H&E tiles of 224 px."""
    files = sorted((test_data / "data/tiles/crc-val-he-7k_70").rglob("*.jpg"))[::4]
    if not files:
        files = sorted((test_data / "data/tiles/crc-val-he-7k_70").rglob("*.*"))[::4]
    return [Image.open(file).convert("RGB") for file in files]


def tiles_of(tissue, px):
    return np.stack([np.asarray(tile.resize((px, px))) for tile in tissue])


def by_reference(reference, name, weights, tiles):
    """All layers as the reference itself returns them."""
    net = getattr(reference, name)()
    net.load_state_dict(torch.load(weights / NAMES[name][0], weights_only=True))
    net.eval()
    batch = net.preprocess(torch.from_numpy(tiles)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return {k: v.numpy() for k, v in net(batch, return_layers=True).items()}


@pytest.mark.parametrize("name", NAMES)
def test_postconv_and_predictions(reference, folders, weights, tissue, name):
    tiles = tiles_of(tissue, NAMES[name][1])
    expected = by_reference(reference, name, weights, tiles)
    acts, preds = Features(folders[name], include_preds=True)(tiles)
    before = "features" if name == "EfficientNetLite0" else "penultimate"
    np.testing.assert_allclose(acts, expected[before], atol=1e-4)
    logits = torch.from_numpy(expected["logits"])
    np.testing.assert_allclose(preds, logits.softmax(1).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "layer", "key"),
    [
        ("EfficientNetLite0", "_blocks.4", "block4"),
        ("EfficientNetLite0", "_blocks.15", "block15"),
        ("EfficientNetLite0", "_fc", "logits"),
        ("ARACNN", "main_output", "logits"),
        ("ARACNN", "aux_output", "aux_logits"),
    ],
)
def test_layers_by_name(reference, folders, weights, tissue, name, layer, key):
    tiles = tiles_of(tissue[:4], NAMES[name][1])
    expected = by_reference(reference, name, weights, tiles)[key]
    found = Features(folders[name], layers=layer)(tiles)
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, scale))


@pytest.mark.parametrize("name", NAMES)
def test_threads_and_neighbors_do_not_change_bits(folders, tissue, name):
    px = NAMES[name][1]
    features = Features(folders[name], include_preds=True, batch_size=16)
    tiles = tiles_of(tissue[:16], px)
    shuffled = np.random.default_rng(0).permutation(16)
    others = tiles.copy()
    others[1:] = 255 - others[1:]
    before = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(features.forward(tiles, with_preds=True))
            again = features.forward(tiles[shuffled], with_preds=True)
            for value, row in zip(
                (again[0]["postconv"], again[1]),
                (found[-1][0]["postconv"], found[-1][1]),
                strict=True,
            ):
                np.testing.assert_array_equal(value, row[shuffled])
            alone = features.forward(others, with_preds=False)[0]["postconv"][0]
            np.testing.assert_array_equal(alone, found[-1][0]["postconv"][0])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0][0]["postconv"], found[1][0]["postconv"])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_the_goldens_network_by_threads(goldens):
    path = goldens / "golden_net.py"
    spec = importlib.util.spec_from_file_location("golden_net_by_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    features = Features(module.build(), tile_px=96, layers=["layer1", "postconv"])
    tiles = np.random.default_rng(0).integers(0, 256, (32, 96, 96, 3), np.uint8)
    before = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(features.forward(tiles, with_preds=False)[0])
    finally:
        torch.set_num_threads(before)
    for name in ("layer1", "postconv"):
        np.testing.assert_array_equal(found[0][name], found[1][name])
