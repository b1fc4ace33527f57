"""Parts read whole, every byte of them checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from raylatent import schema
from raylatent.errors import BrokenPartError
from raylatent.parts import digest, own_metadata
from raylatent.seal import seal_holds
from raylatent.storage import Store, reason

_ARROW_KEY = b"ARROW:schema"


@dataclass(frozen=True, kw_only=True)
class CheckedPart:
    """A part whose bytes are those that were written.

    Attributes:
        rows: Number of rows.
        footer: Key-value metadata, keys as in schema.FOOTER_*.
        n_bytes: Size of the file.
        sealed: Whether every byte was checked; of parts of before there were seals
            pages and columns are, not the rest of the footer.
        schema: Its columns.
        table: The columns that were asked for.
    """

    rows: int
    footer: Mapping[str, str]
    n_bytes: int
    sealed: bool
    schema: pa.Schema
    table: pa.Table


def check_part(
    store: Store, name: str, columns: Sequence[str] = (), *, sealed: bool = False
) -> CheckedPart:
    """Read a part whole, and check every byte of it.

    Args:
        store: Where.
        name: The part's name in the store.
        columns: To be read.
        sealed: Whether it must have a seal, as all parts of its run.

    Raises:
        BrokenPartError: Its bytes are not those that were written, or it lacks a
            column.
        StorageError: It is not there, or cannot be read.
    """
    data = store.read(name)
    held = seal_holds(data)
    if held is False:
        raise _broken(store, name, "its bytes are not those that were written")
    if held is None and sealed:
        raise _broken(store, name, "it has no seal, which all files of this run have")
    try:
        reader = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        found = reader.schema_arrow
        missing = set(columns) - set(found.names)
        if missing:
            raise _broken(store, name, f"it has no column {min(missing)!r}")
        table = reader.read(columns=None if held is None else list(columns))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _broken(store, name, reason(error)) from error
    metadata = reader.metadata.metadata or {}
    footer = own_metadata(metadata)
    if held is None:
        _check_unsealed(store, name, table, metadata)
    return CheckedPart(
        rows=reader.metadata.num_rows,
        footer=footer,
        n_bytes=len(data),
        sealed=held is not None,
        schema=found.remove_metadata(),
        table=table.select(list(columns)).replace_schema_metadata(),
    )


def _check_unsealed(
    store: Store, name: str, table: pa.Table, metadata: Mapping[bytes, bytes]
) -> None:
    """What can be checked of a part of before there were seals.

    Raises:
        BrokenPartError: It has a key that none of them had, as a damaged seal, or its
            columns are not those that were written.
    """
    known = {key.encode() for key in schema.FOOTER_KEYS - {schema.FOOTER_SEAL}}
    unknown = set(metadata) - known - {_ARROW_KEY}
    if unknown:
        raise _broken(store, name, f"its footer has {min(unknown)!r}")
    wrote = own_metadata(metadata).get(schema.FOOTER_DIGEST)
    if wrote is not None and wrote != digest(table.replace_schema_metadata()):
        raise _broken(store, name, "its columns do not have the digest in its footer")


def _broken(store: Store, name: str, why: str) -> BrokenPartError:
    return BrokenPartError(f"{store.uri}/{name} is broken: {why}")
