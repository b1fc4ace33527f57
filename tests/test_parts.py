"""One part: its name on disk, page checksums, footer, digest."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent import schema
from raylatent.errors import BrokenPartError, LayerError, SourceError, StorageError
from raylatent.parts import (
    digest,
    escape_partition,
    part_name,
    partition_folder,
    read_footer,
    read_part,
    slide_of,
    unescape_partition,
    write_part,
)
from raylatent.storage import Store

N_TILES = 3


def rows():
    """Three rows with a layer of six features and one of two."""
    wanted = schema.activations_schema({"layer2.1": 6, "conv": 2})
    return pa.Table.from_pylist(
        [
            {
                "tile_index": i,
                "loc_x": None if i == 1 else i,
                "loc_y": i,
                "source": 0,
                "offset": 100 * i,
                "length": 100,
                "layer2.1": [i + j / 7 for j in range(6)],
                "conv": [i / 3, -0.0],
            }
            for i in range(N_TILES)
        ],
        schema=wanted,
    )


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


@given(st.text(min_size=1, max_size=40))
def test_escaping_comes_back(slide):
    escaped = escape_partition(slide)
    assert unescape_partition(escaped) == slide
    assert not set("/\\\0\n\"#'*:=?{[]^") & set(escaped)
    assert escaped not in {".", ".."}
    assert slide_of(part_name("activations", slide, 1)) == slide


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_two_slides_have_two_folders(one, other):
    assert (partition_folder(one) == partition_folder(other)) == (one == other)


@pytest.mark.parametrize(
    "text", ["a b", "é ✓", "🔬", "שקף", "a.b-c_d+e,f;g@h!i(j)&k~l$m|n<o>"]
)
def test_what_is_not_hive_s_stays(text):
    assert escape_partition(text) == text


def test_all_of_hive_s_set_is_escaped():
    for char in [*map(chr, range(1, 32)), "\x7f", *"\"#%'*/:=?\\{[]^"]:
        assert escape_partition(f"a{char}b") == f"a%{ord(char):02X}b"
    assert escape_partition("a}b") == "a}b"


@pytest.mark.parametrize(
    ("slide", "says"),
    [
        ("", "cannot be called ''"),
        ("__HIVE_DEFAULT_PARTITION__", "rename its file"),
        ("a" * 250, "folder name of 256 bytes"),
        ("é" * 125, "folder name of 256 bytes"),
        ("#" * 84, "folder name of 258 bytes"),
        ("." * 84, "folder name of 258 bytes"),
        ("a\udcff", "not in UTF-8"),
    ],
)
def test_refused_names(slide, says):
    with pytest.raises(SourceError, match=says):
        escape_partition(slide)


@pytest.mark.parametrize("slide", ["a" * 249, "é" * 124, "#" * 83, "." * 83, " ", "-"])
def test_the_longest_names_can_be_folders(slide, store):
    name = part_name("activations", slide, 0)
    write_part(store, name, rows(), {})
    assert store.list() == [name]
    assert slide_of(store.list()[0]) == slide


def test_no_slide_in_other_names():
    assert slide_of("sources.parquet") is None
    assert slide_of("slide=a") is None


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        (["Conv", "conv"], "Conv"),
        (["tile_index"], "tile_index"),
        (["SLIDE"], "SLIDE"),
        (["Predictions"], "Predictions"),
        (["straße", "STRASSE"], "straße"),
    ],
)
def test_colliding_layers_are_refused(layers, named):
    with pytest.raises(LayerError, match="collides") as caught:
        schema.activations_schema(dict.fromkeys(layers, 3))
    assert named in str(caught.value)


def test_a_repeated_layer_is_refused():
    with pytest.raises(LayerError, match="layer 'a' collides with the layer 'a'"):
        schema.check_layer_names(["a", "b", "a"])


def test_layers_that_do_not_collide_are_kept_in_order():
    wanted = schema.activations_schema({"layer2.1": 1, "layer2_1": 2}, n_classes=3)
    assert wanted.names[-3:] == ["layer2.1", "layer2_1", "predictions"]


def test_any_flipped_byte_of_a_data_page_is_noticed(store, tmp_path):
    name = part_name("activations", "s", 0)
    write_part(store, name, rows(), {})
    path = Path(store.path(name))
    good = path.read_bytes()
    names = [field.name for field in rows().schema]
    column = pq.read_metadata(path).row_group(0).column(names.index("layer2.1"))
    assert column.path_in_schema.startswith("layer2.1")
    first = column.data_page_offset
    last = first + column.total_compressed_size
    noticed = set()
    for position in range(first, last):
        path.write_bytes(
            good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :]
        )
        try:
            same = read_part(store, name).equals(rows())
        except BrokenPartError as error:
            assert name in str(error)  # noqa: PT017
            noticed.add(position)
        else:
            assert same  # a flag of the header that nobody reads
    assert noticed >= set(range(last - 40, last))  # the page's content ends the chunk


def test_pages_have_checksums_that_others_verify(store, tmp_path):
    """Stored uncompressed, a flipped value is seen by its checksum alone."""
    write_part(store, "p.parquet", rows(), {})
    path = Path(store.path("p.parquet"))
    table = pq.read_table(path, page_checksum_verification=True)
    plain, unchecked = tmp_path / "plain", tmp_path / "unchecked"
    pq.write_table(table, plain, write_page_checksum=True)
    pq.write_table(table, unchecked, write_page_checksum=False)
    assert crc_of_first_page(plain) is not None
    assert crc_of_first_page(unchecked) is None
    for column in range(len(table.schema)):
        assert crc_of_first_page(path, column) is not None


def crc_of_first_page(path, column=0):
    """Field 4 of Parquet's PageHeader in Thrift's compact protocol."""
    where = pq.read_metadata(path).row_group(0).column(column)
    data = path.read_bytes()
    start = where.dictionary_page_offset or where.data_page_offset
    position, field = start, 0
    while data[position]:
        delta, kind = data[position] >> 4, data[position] & 15
        field += delta
        assert delta > 0
        if kind != 5:  # a struct: the page's own header follows, crc would be before
            return None
        value, shift, position = 0, 0, position + 1
        while True:
            value |= (data[position] & 127) << shift
            shift, position = shift + 7, position + 1
            if data[position - 1] < 128:
                break
        if field == 4:
            return value
    return None


def test_the_footer_has_what_was_given_and_a_digest(store):
    given = {
        schema.FOOTER_FINGERPRINT: "abc",
        schema.FOOTER_SLIDE: "Zürich ✓",
        schema.FOOTER_SOURCE: json.dumps({"id": 1, "size": 2, "mtime": 3}),
        schema.FOOTER_UNIT: "3",
        schema.FOOTER_FIRST: "0",
        schema.FOOTER_LAST: "3",
        schema.FOOTER_QUARANTINED: "0",
        schema.FOOTER_LAYERS: json.dumps({"conv": [2]}),
    }
    table = rows()
    write_part(store, "p.parquet", table, given)
    n_rows, found = read_footer(store, "p.parquet")
    assert n_rows == N_TILES
    assert found.pop(schema.FOOTER_DIGEST) == digest(table)
    assert len(found.pop(schema.FOOTER_SEAL)) == 32
    assert found == given


def test_what_is_read_has_the_digest_of_what_was_written(store):
    source = pa.Table.from_pylist(
        [
            {
                "source": 0,
                "slide": "a",
                "kind": "tfrecords",
                "uri": "/x",
                "size": 1,
                "mtime": 5,
                "n_indexed": 2,
            }
        ],
        schema=schema.SOURCES,
    )
    for table in (rows(), source):
        write_part(store, "a.parquet", table, {})
        written = read_footer(store, "a.parquet")[1][schema.FOOTER_DIGEST]
        assert digest(read_part(store, "a.parquet")) == written


def test_the_digest_is_of_values_not_of_buffers():
    table = rows()
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert pieces["conv"].num_chunks == 2
    assert digest(pieces) == digest(table)
    assert digest(table.slice(1)) != digest(table.slice(0, 2))
    other = table.set_column(0, table.schema.field(0), pa.array([0, 1, 3]))
    assert digest(other) != digest(table)
    assert digest(table.select(["conv", "layer2.1"])) != digest(
        table.select(["layer2.1", "conv"])
    )


def test_a_missing_column_or_part_is_named(store):
    write_part(store, "p.parquet", rows(), {})
    with pytest.raises(StorageError, match="no column 'nope'"):
        read_part(store, "p.parquet", ["tile_index", "nope"])
    with pytest.raises(StorageError, match=r"q\.parquet"):
        read_part(store, "q.parquet")


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"x" * 100, b"PAR1" + bytes(90) + b"PAR1"]
)
def test_a_file_that_is_no_part_is_broken(store, content):
    store.write("p.parquet", content)
    for read in (read_part, read_footer):
        with pytest.raises(BrokenPartError, match=r"p\.parquet is broken, delete it"):
            read(store, "p.parquet")


def test_failing_storage_is_not_a_broken_part(store, monkeypatch):
    """The first look fails, the bytes are good: the rows come."""
    write_part(store, "p.parquet", rows(), {})

    def fail(name):
        raise OSError

    monkeypatch.setattr(store, "open", fail)
    assert read_part(store, "p.parquet").equals(rows())
    assert read_footer(store, "p.parquet")[0] == N_TILES


def test_parts_in_an_object_store():
    store = Store("memory://parts-test/run")
    write_part(store, "a/p.parquet", rows(), {schema.FOOTER_UNIT: "7"})
    assert read_part(store, "a/p.parquet", ["conv"])["conv"].to_pylist() == (
        rows()["conv"].to_pylist()
    )
    assert read_footer(store, "a/p.parquet")[1][schema.FOOTER_UNIT] == "7"
    store.delete_folder("a")
    assert store.list() == []
