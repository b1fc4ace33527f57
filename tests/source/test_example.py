"""What a record says of a tile, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.errors import ContentError
from raylatent.source.record import TileRecord, example_message, parse_example


def serialized(**features):
    """An Example with lists of bytes, ints or floats by name."""
    message = example_message().Example()
    for name, values in features.items():
        feature = message.features.feature[name]
        kinds = {bytes: feature.bytes_list, int: feature.int64_list}
        for value in values:
            kinds.get(type(value), feature.float_list).value.append(value)
    return message.SerializeToString(deterministic=True)


def test_everything_there():
    payload = serialized(image_raw=[b"p"], slide=["é".encode()], loc_x=[1], loc_y=[-2])
    wanted = TileRecord(image_raw=b"p", slide="é", loc_x=1, loc_y=-2)
    assert parse_example(payload) == wanted
    assert parse_example(memoryview(payload)) == wanted


def test_only_the_picture():
    assert parse_example(serialized(image_raw=[b"p"])) == TileRecord(image_raw=b"p")


def test_only_loc_x_as_old_versions_wrote():
    record = parse_example(serialized(image_raw=[b"p"], loc_x=[5]))
    assert (record.loc_x, record.loc_y) == (5, None)


@pytest.mark.parametrize("location", [[], [1.5], [b"7"]])
def test_a_location_of_another_kind_is_none(location):
    assert parse_example(serialized(image_raw=[b"p"], loc_x=location)).loc_x is None


def test_a_slide_that_is_not_utf8_is_still_read():
    assert (
        parse_example(serialized(image_raw=[b"p"], slide=[b"\xff"])).slide == "\ufffd"
    )


@pytest.mark.parametrize("location", [1 << 31, -(1 << 31) - 1, (1 << 63) - 1])
def test_a_location_beyond_int32_is_bad_content(location):
    with pytest.raises(ContentError, match="loc_y has more than 32 bits") as caught:
        parse_example(serialized(image_raw=[b"p"], loc_x=[0], loc_y=[location]))
    assert caught.value.stage == "parse"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (serialized(slide=[b"s"], loc_x=[1]), "it has loc_x, slide"),
        (serialized(image_raw=[], slide=[b"s"]), "no image_raw"),
        (serialized(image_raw=[3]), "no image_raw"),
        (b"", "it has nothing"),
        (b"\xff\xff\xff", "not a tf.train.Example"),
        (serialized(image_raw=[b"picture"])[:-3], "not a tf.train.Example"),
    ],
)
def test_no_picture_or_no_example(payload, says):
    with pytest.raises(ContentError, match=says) as caught:
        parse_example(payload)
    assert caught.value.stage == "parse"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 2_000_000, "\x1b[2J\n", "é" * 99])
def test_names_in_a_message_are_short_and_harmless(name):
    names = {f"{i}{name}": [1] for i in range(9)}
    with pytest.raises(ContentError, match="no image_raw") as caught:
        parse_example(serialized(**names))
    says = str(caught.value)
    assert len(says) < 8 * 250
    assert says.isascii()
    assert says.isprintable()


@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_bad_content(payload):
    try:
        record = parse_example(payload)
    except ContentError as error:
        assert error.stage == "parse"  # noqa: PT017
    else:
        assert isinstance(record.image_raw, bytes)


@given(st.data())
def test_a_damaged_example_is_a_record_or_bad_content(data):
    payload = bytearray(
        serialized(image_raw=[b"picture"], slide=[b"s"], loc_x=[1], loc_y=[2])
    )
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(
            st.integers(0, 255)
        )
    try:
        parse_example(bytes(payload))
    except ContentError as error:
        assert error.stage == "parse"  # noqa: PT017
