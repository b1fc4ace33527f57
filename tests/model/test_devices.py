"""Passes on a device, one after the other."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from raylatent.errors import ModelError
from raylatent.model.devices import CpuLane, CudaLane, lane_of
from raylatent.model.features import Features
from raylatent.tiles.threads import Clock
from tests.model.fake_cuda import FakeCuda

PX = 24
BATCH = 16


STAGES = ("wait", "transfer", "forward")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 8, 5, stride=3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward(self, batch):
        return self.fc(self.pool(self.conv(batch).relu_()).flatten(1))


@pytest.fixture
def features():
    return Features(
        Net(),
        layers=["conv", "postconv"],
        classes=3,
        tile_px=PX,
        batch_size=BATCH,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        device="cpu",
    )


class ChannelsLast(nn.Module):
    def forward(self, batch):
        return batch.permute(0, 2, 3, 1)


def lanes(features):
    return {"cpu": CpuLane(features), "cuda": CudaLane(features, FakeCuda())}


def tiles_of(n, seed=0):
    random = np.random.default_rng(seed)
    tiles = list(random.integers(0, 256, (n, PX, PX, 3), dtype=np.uint8))
    return [None if i % 11 == 5 else tile for i, tile in enumerate(tiles)]


def chunks(tiles):
    for first in range(0, len(tiles), BATCH):
        yield tiles[first : first + BATCH]


def one_by_one(features, tiles):
    """The plain way: each micro-batch for itself."""
    for chunk in chunks(tiles):
        batch = np.zeros((BATCH, PX, PX, 3), np.uint8)
        for i, tile in enumerate(chunk):
            if tile is not None:
                batch[i] = tile
        yield features.forward(batch, with_preds=True)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("n", [1, BATCH, BATCH + 1, 7 * BATCH - 3])
def test_rows_have_the_bits_of_micro_batches_one_by_one(features, kind, n):
    lane = lanes(features)[kind]
    for seed in range(2):  # buffers are used again
        tiles = tiles_of(n, seed)
        passed = list(
            lane.passes(map(lane.fill, chunks(tiles)), Clock(*STAGES), with_preds=True)
        )
        plain = list(one_by_one(features, tiles))
        assert len(passed) == len(plain) == -(-n // BATCH)
        for (found, preds), (wanted, wanted_preds) in zip(passed, plain, strict=True):
            assert list(found) == ["conv", "postconv"]
            for name in found:
                assert found[name].tobytes() == wanted[name].tobytes()
            assert preds.tobytes() == wanted_preds.tobytes()


def test_there_is_no_prediction_unless_asked_for(features):
    for lane in lanes(features).values():
        ((_, preds),) = lane.passes(
            map(lane.fill, chunks(tiles_of(3))), Clock(*STAGES), with_preds=False
        )
        assert preds is None


def test_nothing_gives_nothing(features):
    for lane in lanes(features).values():
        assert not list(lane.passes(iter([]), Clock(*STAGES), with_preds=True))


def test_a_gpu_gets_the_next_pass_before_the_last_is_fetched(features):
    cuda = FakeCuda()
    lane = CudaLane(features, cuda)
    clock = Clock(*STAGES)
    list(
        lane.passes(map(lane.fill, chunks(tiles_of(3 * BATCH))), clock, with_preds=True)
    )
    begin = ["sending", "on sending", "on sending", "waits", "on computing"]
    begin += ["on computing"]
    assert cuda.said == [*begin, *begin, "fetched", *begin, "fetched", "fetched"]
    # The device's own times.
    assert clock.seconds["transfer"] == clock.seconds["forward"] == pytest.approx(6e-3)


def test_rows_are_kept_while_buffers_are_used_again(features):
    for lane in lanes(features).values():
        passed = lane.passes(
            map(lane.fill, chunks(tiles_of(5 * BATCH))), Clock(*STAGES), with_preds=True
        )
        first = next(passed)[0]["conv"]
        before = first.copy()
        list(passed)
        assert np.array_equal(first, before)
        assert len(lane._free) <= 4


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_an_error_of_who_reads_comes_through_and_the_lane_goes_on(features, kind):
    lane = lanes(features)[kind]

    def broken():
        yield from chunks(tiles_of(2 * BATCH))
        message = "gone"
        raise OSError(message)

    before = threading.active_count()
    with pytest.raises(OSError, match="gone"):
        list(lane.passes(map(lane.fill, broken()), Clock(*STAGES), with_preds=True))
    assert threading.active_count() == before
    assert (
        len(
            list(
                lane.passes(
                    map(lane.fill, chunks(tiles_of(9))), Clock(*STAGES), with_preds=True
                )
            )
        )
        == 1
    )


def test_an_error_of_the_model_ends_who_reads(features, monkeypatch):
    lane = lane_of(features)
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield tiles_of(BATCH)

    def fails(*args, **options):
        message = "no"
        raise ModelError(message)

    monkeypatch.setattr(features, "run", fails)
    before = threading.active_count()
    with pytest.raises(ModelError, match="no"):
        list(lane.passes(map(lane.fill, endless()), Clock(*STAGES), with_preds=True))
    assert threading.active_count() == before
    assert len(asked) <= 3


def test_two_units_share_a_model(features):
    lane = lane_of(features)
    tiles = [tiles_of(5 * BATCH + 3, seed) for seed in range(4)]
    plain = [list(one_by_one(features, some)) for some in tiles]
    found = [None] * len(tiles)

    def work(i):
        found[i] = list(
            lane.passes(
                map(lane.fill, chunks(tiles[i])), Clock(*STAGES), with_preds=True
            )
        )

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(tiles))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for passed, wanted in zip(found, plain, strict=True):
        for (rows, _), (others, _) in zip(passed, wanted, strict=True):
            assert rows["conv"].tobytes() == others["conv"].tobytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("mixed_precision", "least"), [(False, 0.9999), (True, 0.99)])
def test_rows_of_a_gpu_are_those_of_a_cpu(features, mixed_precision, least):
    on_gpu = Features(
        Net(),
        layers=["conv", "postconv"],
        classes=3,
        tile_px=PX,
        batch_size=BATCH,
        mean=features.spec.mean,
        std=features.spec.std,
        device="cuda",
        mixed_precision=mixed_precision,
    )
    tiles = tiles_of(4 * BATCH)
    lane = lane_of(on_gpu)
    passed = lane.passes(map(lane.fill, chunks(tiles)), Clock(*STAGES), with_preds=True)
    plain = one_by_one(features, tiles)
    for (rows, _), (wanted, _) in zip(passed, plain, strict=True):
        for name in rows:
            product = (rows[name] * wanted[name]).sum(1)
            norms = np.linalg.norm(rows[name], axis=1) * np.linalg.norm(
                wanted[name], axis=1
            )
            assert (product / norms).min() >= least


def test_rows_that_lie_in_the_input_are_kept():
    """The input's memory is used again: what a layer hands through is copied."""
    through = nn.Sequential(ChannelsLast(), nn.Flatten())
    features = Features(
        through, layers=["0"], tile_px=4, batch_size=BATCH, device="cpu",
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), pooling="none",
    )  # fmt: skip
    tiles = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    chunks = [list(tiles[i : i + BATCH]) for i in range(0, 40, BATCH)]
    clock = Clock("wait", "transfer", "forward")
    lane = lane_of(features)
    passes = lane.passes(map(lane.fill, chunks), clock, with_preds=False)
    rows = np.concatenate([found["0"] for found, _ in passes])[:40]
    expected = tiles.reshape(40, -1) / np.float32(255)
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_warm_lane_has_its_buffers_and_gives_the_same_rows(features, kind):
    lane = lanes(features)[kind]
    lane.warm_up(with_preds=True)
    assert len(lane._free) == 1 + lane.depth
    tiles = tiles_of(BATCH)
    clock = Clock("wait", "transfer", "forward")
    ((found, preds),) = lane.passes(iter([lane.fill(tiles)]), clock, with_preds=True)
    cold = lanes(features)[kind]
    ((wanted, wanted_preds),) = cold.passes(
        iter([cold.fill(tiles)]), clock, with_preds=True
    )
    for name, rows in wanted.items():
        np.testing.assert_array_equal(found[name], rows)
    np.testing.assert_array_equal(preds, wanted_preds)
