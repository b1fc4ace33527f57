"""One Parquet part: its name, footer and checksums, and Hive's escaping of slides."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylatent import schema
from raylatent.errors import BrokenPartError, SourceError, StorageError
from raylatent.seal import seal_in, seal_of, sealed_parquet
from raylatent.storage import Store, reason

logger = logging.getLogger(__name__)

T = TypeVar("T")

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_ESCAPED = re.compile(r"[\x00-\x1f\x7f\"#%'*/:=?\\{\[\]^]")
_MAX_NAME_BYTES = 255


@dataclass(frozen=True, kw_only=True)
class Part:
    """An activations part, as its footer tells.

    Attributes:
        slide: Its slide.
        unit: Its number in the slide.
        name: Its name below the run directory.
        rows: Number of rows.
        footer: Key-value metadata, keys as in schema.FOOTER_*.
    """

    slide: str
    unit: int
    name: str
    rows: int
    footer: Mapping[str, str]

    @property
    def quarantined(self) -> int:
        """Tiles of the unit that are quarantined."""
        return int(self.footer.get(schema.FOOTER_QUARANTINED, "0"))


@dataclass(frozen=True, kw_only=True)
class CheckedPart:
    """A part whose bytes are those that were written.

    Attributes:
        rows: Number of rows.
        footer: Key-value metadata, keys as in schema.FOOTER_*.
        n_bytes: Size of the file.
        table: The columns that were asked for.
    """

    rows: int
    footer: Mapping[str, str]
    n_bytes: int
    table: pa.Table


def rows_digest(parts: Iterable[Part]) -> str:
    """A digest of all rows of a run, from the digests in the footers of its parts.

    Args:
        parts: Those that have rows, by slide and unit.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        line = f"{part.name}\0{part.footer.get(schema.FOOTER_DIGEST, '')}\n"
        hasher.update(line.encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()


def escape_partition(slide: str) -> str:
    r"""A slide's name as the value of a Hive partition, `%XX` for Hive's own set.

    Spaces and non-ASCII stay: Spark decodes escapes byte by byte.

    Raises:
        SourceError: The name is empty, Hive's null, not in UTF-8, or too long for a
            folder name.

    >>> escape_partition("x=1%2F"), escape_partition(".."), escape_partition("a b ✓")
    ('x%3D1%252F', '%2E%2E', 'a b ✓')
    """
    if not slide or slide == _HIVE_NULL:
        message = f"a slide cannot be called {slide!r}: rename its file"
        raise SourceError(message)
    if not slide.strip("."):
        escaped = "%2E" * len(slide)
    else:
        escaped = _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", slide)
    try:
        n_bytes = len(f"{schema.SLIDE}={escaped}".encode())
    except UnicodeEncodeError as error:
        message = f"the slide's name {slide!r} is not in UTF-8: rename its file"
        raise SourceError(message) from error
    if n_bytes > _MAX_NAME_BYTES:
        message = (
            f"slide {slide[:40]!r}... makes a folder name of {n_bytes} bytes, more than "
            f"{_MAX_NAME_BYTES}: give its file a shorter name"
        )
        raise SourceError(message)
    return escaped


def unescape_partition(value: str) -> str:
    """The inverse of `escape_partition`.

    >>> unescape_partition("x%3D1%252F")
    'x=1%2F'
    """
    return re.sub("%([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), value)


def partition_folder(slide: str) -> str:
    """The folder of one slide's parts, as `slide=<escaped name>`."""
    return f"{schema.SLIDE}={escape_partition(slide)}"


def slide_of(name: str) -> str | None:
    """The slide of a part's name, None where no folder is a partition of slides.

    >>> slide_of("activations/slide=a b/000000.parquet")
    'a b'
    """
    for folder in name.split("/")[:-1]:
        if folder.startswith(f"{schema.SLIDE}="):
            return unescape_partition(folder.removeprefix(f"{schema.SLIDE}="))
    return None


def part_name(stage: str, slide: str, unit: int) -> str:
    """The name of a unit's part below the run directory.

    >>> part_name("activations", "007", 3)
    'activations/slide=007/000003.parquet'
    """
    return f"{stage}/{partition_folder(slide)}/{unit:06d}.parquet"


def is_part(name: str) -> bool:
    """Whether a file's name is that of a part, as `part_name` spells it.

    Any other spelling of a number or slide is another file: rows would be doubled.

    >>> is_part("activations/slide=a/000001.parquet"), is_part("x/slide=a/x.parquet")
    (True, False)
    >>> is_part("activations/slide=a/0000001.parquet"), is_part("x/slide=%61/000001")
    (False, False)
    """
    stage, _, rest = name.rpartition(f"/{schema.SLIDE}=")
    stem = name.rsplit("/", 1)[-1].removesuffix(".parquet")
    if not (stage and stem.isascii() and stem.isdigit()):
        return False
    try:
        slide = unescape_partition(rest.split("/", 1)[0])
        return name == part_name(stage, slide, int(stem))
    except SourceError:
        return False


def unit_of(name: str) -> int:
    """The number in a part's name.

    >>> unit_of("activations/slide=a/000012.parquet")
    12
    """
    return int(name.rsplit("/", 1)[-1].removesuffix(".parquet"))


def digest(table: pa.Table) -> str:
    """A digest of the values of each column, whatever their buffers' offsets.

    BLAKE2b over each column's name, type, validity and values, in column order.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for field, column in zip(table.schema, table.columns, strict=True):
        kind = _plain_type(field.type)
        hasher.update(f"{field.name}\0{kind}\0{len(column)}\0".encode())
        whole = column.num_chunks == 1  # to combine one chunk copies it
        _digest_array(hasher, column.chunk(0) if whole else column.combine_chunks())
    return hasher.hexdigest()


def _plain_type(kind: pa.DataType) -> str:
    """A type by what its values are: Parquet gives a list's items another name."""
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.value_type}[{kind.list_size}]"
    return str(kind)


def _digest_array(hasher: hashlib.blake2b, array: pa.Array) -> None:
    hasher.update(np.packbits(np.asarray(array.is_valid())).tobytes())
    if pa.types.is_fixed_size_list(array.type):
        values = array.flatten().to_numpy(zero_copy_only=False)
        hasher.update(np.ascontiguousarray(values).view(np.uint8).data)
    elif pa.types.is_string(array.type):
        for value in array.to_pylist():
            text = b"" if value is None else value.encode("utf-8", "surrogateescape")
            hasher.update(len(text).to_bytes(8, "little") + text)
    elif pa.types.is_large_binary(array.type):
        for value in array:
            content = value.as_buffer() or b""
            hasher.update(len(content).to_bytes(8, "little"))
            hasher.update(content)
    else:
        filled = array.fill_null(0).to_numpy(zero_copy_only=False)
        hasher.update(np.ascontiguousarray(filled).view(np.uint8).data)


def write_part(
    store: Store, name: str, table: pa.Table, footer: Mapping[str, str]
) -> str:
    """Put a Parquet file in place in one step: page checksums, a footer, a seal.

    Args:
        store: Where.
        name: The part's name in the store.
        table: Its rows.
        footer: Key-value metadata; the digest of the columns is added.

    Returns:
        The seal, which is the file's digest.

    Raises:
        StorageError: It could not be written, after retries.
    """
    metadata = {**footer, schema.FOOTER_DIGEST: digest(table)}
    strings = [f.name for f in table.schema if pa.types.is_string(f.type)]
    # One chunk a column: where pages end must not depend on how the rows came.
    whole = table.combine_chunks().replace_schema_metadata(metadata)
    data = sealed_parquet(whole, use_dictionary=strings)
    store.write(name, data)
    return seal_in(data)


def read_footer(store: Store, name: str) -> tuple[int, dict[str, str]]:
    """A part's number of rows and its key-value metadata.

    Raises:
        BrokenPartError: It is no Parquet file.
        StorageError: It is not there, or cannot be read.
    """
    metadata = _parse(store, name, pq.read_metadata)
    return metadata.num_rows, own_metadata(metadata.metadata)


def own_metadata(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    """Our own entries of a file's key-value metadata."""
    return {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in (metadata or {}).items()
        if key.startswith(b"raylatent.")
    }


def check_part(store: Store, name: str, columns: Sequence[str] = ()) -> CheckedPart:
    """Read a part whole, and check every byte of it against its seal.

    Args:
        store: Where.
        name: The part's name in the store.
        columns: To be read.

    Raises:
        BrokenPartError: Its bytes are not those that were written, or it lacks a
            column.
        StorageError: It is not there, or cannot be read.
    """
    data = store.read(name)
    if seal_of(data) is None:
        raise _broken(store, name, "its bytes are not those that were written")
    try:
        reader = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        missing = set(columns) - set(reader.schema_arrow.names)
        table = reader.read(columns=[name for name in columns if name not in missing])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _broken(store, name, reason(error)) from error
    if missing:
        raise _broken(store, name, f"it has no column {min(missing)!r}")
    return CheckedPart(
        rows=reader.metadata.num_rows,
        footer=own_metadata(reader.metadata.metadata),
        n_bytes=len(data),
        table=table.replace_schema_metadata(),
    )


def _broken(store: Store, name: str, why: str) -> BrokenPartError:
    return BrokenPartError(f"{store.uri}/{name} is broken: {why}", why)


def read_part(
    store: Store, name: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """A part's rows, page checksums verified, without the partition column.

    Raises:
        BrokenPartError: Its bytes are not those that were written.
        StorageError: It is not there, cannot be read, or lacks a column.
    """

    def rows(file: pa.NativeFile) -> pa.Table:
        reader = pq.ParquetFile(file, page_checksum_verification=True)
        missing = set(columns or ()) - set(reader.schema_arrow.names)
        if missing:
            message = f"{store.uri}/{name} has no column {min(missing)!r}"
            raise StorageError(message)
        return reader.read(columns=None if columns is None else list(columns))

    return _parse(store, name, rows)


def _parse(store: Store, name: str, parse: Callable[[pa.NativeFile], T]) -> T:
    """What `parse` makes of a file, told apart from storage that fails meanwhile."""
    try:
        with store.open(name) as file:
            return parse(file)
    except (OSError, ValueError, pa.ArrowException):
        logger.debug("reading %s/%s once more, whole", store.uri, name)
    # pyarrow raises the same errors for both; reading the bytes alone tells which.
    data = store.read(name)
    try:
        return parse(pa.BufferReader(data))
    except (OSError, ValueError, pa.ArrowException) as error:
        message = (
            f"{store.uri}/{name} is broken, delete it and run again: {reason(error)}"
        )
        raise BrokenPartError(message) from error
