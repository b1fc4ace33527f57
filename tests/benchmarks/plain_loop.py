"""The plainest loop from TFRecords to activations in Parquet, and its rows compared."""

import io
import itertools
import json
import mmap
import struct
import sys

import numpy as np

BATCH = 32
NAMES = ("tile_index", "offset", "length", "loc_x", "loc_y", "postconv")


def records(path):
    """Payloads of a TFRecord, both checksums checked."""
    from crc32c import crc32c

    def masked(data):
        crc = crc32c(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    at = 0
    while at < len(data):
        length, crc = struct.unpack_from("<QI", data, at)
        assert masked(data[at : at + 8]) == crc
        payload = data[at + 12 : at + 12 + length]
        (crc,) = struct.unpack_from("<I", data, at + 12 + length)
        assert masked(payload) == crc
        yield at, length + 16, payload
        at += length + 16


def plain_net(kind, folder):
    """The model's features by themselves, as one function."""
    if kind == "cheap":
        sys.path.insert(0, str(folder))
        from bench_net import Net

        return Net().eval().features
    from safetensors.torch import load_file

    from raylatent.demo import efficientnet_lite0

    net = efficientnet_lite0()
    net.load_state_dict(load_file(folder / "weights.safetensors"))
    net.eval()
    return lambda batch: net._avg_pooling(net.extract_features(batch)).flatten(1)


def loop(kind, folder, paths, threads, out, *, simplejpeg=False):
    """The plainest loop; a Parquet file for each TFRecord."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from PIL import Image

    from raylatent.source.record import example_message

    torch.set_num_threads(threads)
    example, net = example_message().Example, plain_net(kind, folder)
    about = json.loads((folder / "model.json").read_text())
    mean, std = (
        torch.tensor(about[key]).mul(255).reshape(1, 3, 1, 1) for key in ("mean", "std")
    )
    if simplejpeg:
        from simplejpeg import decode_jpeg as decode
    else:

        def decode(raw):
            return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))

    out.mkdir()
    for source, path in enumerate(paths):
        found = records(path)
        columns = {name: [] for name in ("loc_x", "loc_y", "offset", "length")}
        vectors = []
        while chunk := list(itertools.islice(found, BATCH)):
            tiles = []
            for offset, length, payload in chunk:
                feature = example.FromString(payload).features.feature
                tiles.append(decode(feature["image_raw"].bytes_list.value[0]))
                for name in ("loc_x", "loc_y"):
                    columns[name].append(feature[name].int64_list.value[0])
                columns["offset"].append(offset)
                columns["length"].append(length)
            with torch.no_grad():
                batch = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2)
                vectors.append(net((batch.float() - mean) / std).numpy())
        values = np.concatenate(vectors)
        table = pa.table(
            {
                "tile_index": np.arange(len(values)),
                **columns,
                "source": np.full(len(values), source, np.int32),
                "postconv": pa.FixedSizeListArray.from_arrays(
                    values.reshape(-1), values.shape[1]
                ),
            }
        )
        pq.write_table(table, out / f"{path.stem}.parquet")


def refuse_other_rows(job, plain):
    """Refuse a job's rows that are not those of the loop but for the last digits."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted(plain.glob("*.parquet")):
        wanted = pq.read_table(path, columns=list(NAMES))
        parts = sorted((job / f"activations/slide={path.stem}").glob("*.parquet"))
        found = pa.concat_tables([pq.ParquetFile(p).read(list(NAMES)) for p in parts])
        assert len(found) == len(wanted), path
        for name in NAMES:
            values, others = (
                column.combine_chunks() for column in (found[name], wanted[name])
            )
            if name == "postconv":
                values, others = values.flatten(), others.flatten()
            assert np.allclose(values, others, rtol=1e-4, atol=1e-4), (path, name)
