"""Reading and writing TFRecords: round trips, damage, and Slideflow's own files."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylatent.errors import ContentError, SourceError, StorageError
from raylatent.source import filebytes
from raylatent.source.filebytes import iter_records, read_records
from raylatent.source.index import frames_from, index_tfrecord, sidecar_name
from raylatent.source.record import HEADER_BYTES, TileRecord, masked_crc, parse_example
from raylatent.source.write import example, write_tfrecord
from tests.source.frames import frames_of, remove, write_frames, write_sidecar

quick = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
payloads = st.lists(st.binary(max_size=40), min_size=1, max_size=6)
int32 = st.integers(-(1 << 31), (1 << 31) - 1)
tiles = st.builds(
    TileRecord,
    image_raw=st.binary(max_size=50),
    slide=st.none() | st.text(max_size=8),
    loc_x=int32,
    loc_y=int32,
) | st.builds(TileRecord, image_raw=st.binary(max_size=50))


@quick
@given(st.lists(tiles, max_size=6))
def test_round_trip(tmp_path, records):
    path = tmp_path / "s.tfrecords"
    write_tfrecord(path, records)
    index = index_tfrecord(str(path))
    assert index.error is None
    assert index.sidecar == bool(records)
    found = read_records(str(path), index.offsets, index.lengths)
    decoded = [parse_example(payload) for payload in found]
    wanted = [
        TileRecord(
            image_raw=r.image_raw,
            slide=r.slide
            if r.slide is None
            else r.slide.encode("utf-8", "replace").decode(),
            loc_x=r.loc_x,
            loc_y=r.loc_y,
        )
        for r in records
    ]
    assert decoded == wanted


@quick
@given(payloads, st.data())
def test_any_flipped_bit_is_noticed(tmp_path, contents, data):
    path = write_frames(tmp_path, contents)
    frames = frames_of(contents)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1), label="position")
    content[position] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    path.write_bytes(content)
    bad = int((frames[:, 0] <= position).sum()) - 1
    in_header = position - frames[bad, 0] < HEADER_BYTES
    # With the frames known, that tile alone is bad.
    found = read_records(str(path), frames[:, 0], frames[:, 1])
    for i, (payload, wanted) in enumerate(zip(found, contents, strict=True)):
        if i == bad:
            assert isinstance(payload, ContentError)
            assert payload.stage == "read"
            assert ("length" in str(payload)) == in_header
        else:
            assert payload == wanted
    write_sidecar(path, frames)
    assert len(index_tfrecord(str(path))) == len(contents)
    # Without, it is found again where the next record begins.
    remove(path.parent / "s.index.npz")
    if in_header and len(contents) == 1:
        with pytest.raises(SourceError, match="no TFRecord"):
            index_tfrecord(str(path))
    else:
        index = index_tfrecord(str(path))
        assert index.error is None
        assert np.array_equal(np.stack([index.offsets, index.lengths], 1), frames)
    remove(path)


@quick
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=12),
    st.integers(0, 200),
    st.integers(1, 300),
    st.randoms(use_true_random=False),
)
def test_any_records_in_any_order(tmp_path, sizes, gap, chunk, random):
    """Coalesced or not, with gaps, repeated: what is asked is what comes."""
    contents = [bytes([i]) * size for i, size in enumerate(sizes)]
    path = write_frames(tmp_path, contents)
    frames = frames_of(contents)
    chosen = [random.randrange(len(contents)) for _ in range(random.randrange(20))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filebytes, "_GAP_BYTES", gap)
        patch.setattr(filebytes, "_TOGETHER_BYTES", chunk)
        found = read_records(str(path), frames[chosen, 0], frames[chosen, 1])
    assert found == [contents[i] for i in chosen]
    remove(path)


def test_near_records_are_one_read_and_far_ones_are_not(tmp_path, monkeypatch):
    contents = [bytes(1000)] * 50
    path = write_frames(tmp_path, contents)
    frames = frames_of(contents)
    reads = []
    opened = filebytes.open_input

    class Counting:
        def __init__(self, uri):
            self.file = opened(uri)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def read_at(self, n_bytes, offset):
            reads.append(n_bytes)
            return self.file.read_at(n_bytes, offset)

    monkeypatch.setattr(filebytes, "open_input", Counting)
    assert read_records(str(path), frames[:, 0], frames[:, 1]) == contents
    assert reads == [path.stat().st_size]
    reads.clear()
    monkeypatch.setattr(filebytes, "_GAP_BYTES", 0)
    read_records(str(path), frames[::2, 0], frames[::2, 1])
    assert len(reads) == 25
    reads.clear()
    monkeypatch.setattr(filebytes, "_TOGETHER_BYTES", 5 * 1016)
    read_records(str(path), frames[:, 0], frames[:, 1])
    assert reads == [5 * 1016] * 10


def test_a_file_that_became_shorter_is_no_bad_tile(tmp_path):
    path = write_frames(tmp_path, [b"a" * 50] * 3)
    frames = frames_of([b"a" * 50] * 3)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError, match="has changed, it ends before byte 198"):
        list(iter_records(str(path), frames[:, 0], frames[:, 1]))


def test_slideflow_s_own_files(golden_tfrecords):
    files = sorted(golden_tfrecords.glob("*.tfrecords"))
    assert len(files) == 5
    for path in files:
        beside = index_tfrecord(str(path))
        assert beside.sidecar
        with np.load(sidecar_name(str(path))) as golden:
            frames, locations = golden["arr_0"], golden["locations"]
        assert np.array_equal(np.stack([beside.offsets, beside.lengths], 1), frames)
        headers = frames_from(str(path), 0, len(frames))
        assert np.array_equal(headers.offsets, frames[:, 0])
        assert np.array_equal(headers.lengths, frames[:, 1])
        found = [
            parse_example(payload)
            for payload in read_records(str(path), beside.offsets, beside.lengths)
        ]
        assert {record.slide for record in found} == {path.stem}
        assert [(r.loc_x, r.loc_y) for r in found] == [tuple(xy) for xy in locations]


def test_what_slideflow_wrote_is_what_we_write(golden_tfrecords, tmp_path):
    """The same bytes, where protobuf writes its map in the same order."""
    golden = golden_tfrecords / "g00.tfrecords"
    index = index_tfrecord(str(golden))
    records = [
        parse_example(payload)
        for payload in read_records(str(golden), index.offsets, index.lengths)
    ]
    write_tfrecord(tmp_path / "g00.tfrecords", records)
    ours = index_tfrecord(str(tmp_path / "g00.tfrecords"))
    assert np.array_equal(ours.offsets, index.offsets)
    with (
        np.load(tmp_path / "g00.index.npz") as one,
        np.load(golden_tfrecords / "g00.index.npz") as other,
    ):
        assert set(one.files) == set(other.files)
        for name in one.files:
            assert one[name].dtype == other[name].dtype
            assert np.array_equal(one[name], other[name])


def test_records_without_a_location_beside_those_with_one(tmp_path):
    path = tmp_path / "s.tfrecords"
    write_tfrecord(
        path, [TileRecord(image_raw=b"a", loc_x=1, loc_y=2), TileRecord(b"b")]
    )
    with np.load(tmp_path / "s.index.npz") as arrays:
        assert arrays.files == ["arr_0"]  # locations would belong to other records


def test_writing_leaves_the_old_file_when_a_record_fails(tmp_path):
    path = tmp_path / "s.tfrecords"
    write_tfrecord(path, [TileRecord(b"a")])
    before = path.read_bytes()

    def records():
        yield TileRecord(b"b")
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        write_tfrecord(path, records())
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.index.npz", path.name]
    assert masked_crc(b"") == 0xA282EAD8
    assert example(TileRecord(b"a")) == example(TileRecord(b"a"))
