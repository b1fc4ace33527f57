"""A small network, and TFRecords of painted tissue: what tests run on, made by themselves."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

TILE_PX = 96
CLASSES = ["Lupus", "Vulpes", "Ursus"]
N_TILES = {"g00": 1, "g01": 7, "g02": 33, "g03": 64, "g04": 41}
"""Slides, and how many tiles each has."""
LABELS = {"g00": "A", "g01": "B", "g02": "A", "g03": "B", "g04": "A"}

NETWORK = '''
"""A small network with the names that large ones have."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(after)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class ResNet(nn.Module):
    def __init__(self, width=16, num_classes=3):
        super().__init__()
        self.stem = Block(3, width, 4)
        self.layer1 = Block(width, 2 * width, 2)
        self.layer2 = nn.Sequential(
            Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x):
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))


def build(seed=1234):
    random = torch.Generator().manual_seed(seed)
    model = ResNet()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=random))
                tensor.mul_(0.5 / max(1, tensor[0].numel()) ** 0.5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.add_(1)
                module.running_var.abs_().add_(0.5)
    return model.eval()
'''


def write_network(folder):
    """The network's code as small_net.py, and its weights."""
    import torch
    from safetensors.torch import save_file

    (folder / "small_net.py").write_text(NETWORK)
    names = {}
    exec(compile(NETWORK, "small_net.py", "exec"), names)  # noqa: S102
    with torch.random.fork_rng():
        state = names["build"]().state_dict()
    return save_file(
        {k: v.contiguous() for k, v in state.items()}, folder / "net.safetensors"
    )


def make_model_folder(folder, **changes):
    """The network as a model folder; entries of model.json may be changed, ... leaves out."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    write_network(folder)
    content = {
        "factory": "small_net:ResNet",
        "weights": "net.safetensors",
        "tile_px": TILE_PX,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "classes": CLASSES,
        "outcome": "subtype",
        **changes,
    }
    kept = {key: value for key, value in content.items() if value is not ...}
    (folder / "model.json").write_text(json.dumps(kept))
    return folder


def painted(seed, width=TILE_PX, height=TILE_PX):
    """Painted tissue, (height, width, 3) uint8: stroma, glands and nuclei by a seed."""
    random = np.random.default_rng(seed)
    share = random.random()
    coarse = random.random((2 + height // 24, 2 + width // 24))
    field = Image.fromarray(np.uint8(255 * coarse)).resize(
        (width, height), Image.BICUBIC
    )
    dense = (np.asarray(field) / 255 > share)[..., None]
    pink, violet = np.array([232, 170, 200]), np.array([150, 90, 160])
    base = np.where(dense, violet, pink) + random.normal(0, 6, (height, width, 3))
    picture = Image.fromarray(np.uint8(np.clip(base, 0, 255)))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(width * height / 600 * (0.3 + share))):
        x, y = random.random(2) * (width, height)
        a, b = random.uniform(2, 5, 2)
        draw.ellipse((x - a, y - b, x + a, y + b), fill=(70, 50, 120))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(0.7)))


def make_tfrecords(folder):
    """Slides g00 to g04 as Slideflow lays them out: their tiles in no order, and an index."""
    from raylatent.source.record import TileRecord
    from raylatent.source.write import encode_tile, write_tfrecord

    folder.mkdir(parents=True)
    for number, (slide, n) in enumerate(N_TILES.items()):
        random = np.random.default_rng(number)
        places = [(48 + 96 * (k % 8), 48 + 96 * (k // 8)) for k in range(n)]
        order = random.permutation(n)
        records = [
            TileRecord(encode_tile(painted((number, k)), "jpg", 90), slide, *places[k])
            for k in order.tolist()
        ]
        write_tfrecord(folder / f"{slide}.tfrecords", records)
    return folder


def write_annotations(path):
    """The slides' labels: patient, slide, subtype."""
    rows = [f"{slide},{slide},{label}" for slide, label in LABELS.items()]
    path.write_text("\n".join(["patient,slide,subtype", *rows]) + "\n")
