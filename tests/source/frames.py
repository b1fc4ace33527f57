"""TFRecords of given payloads, with and without an index beside them."""

import numpy as np

from raylatent.source.framing import FRAME_BYTES, frame


def write_frames(folder, contents, name="s.tfrecords"):
    path = folder / name
    path.write_bytes(b"".join(frame(content) for content in contents))
    return path


def write_sidecar(path, frames, **others):
    with (path.parent / f"{path.stem}.index.npz").open("wb") as file:
        np.savez(file, arr_0=np.asarray(frames), **others)


def frames_of(contents):
    lengths = np.array([len(content) + FRAME_BYTES for content in contents])
    return np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)


def remove(path):
    for name in (path, path.parent / f"{path.stem}.index.npz"):
        name.unlink(missing_ok=True)
