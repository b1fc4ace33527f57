"""A run's rows as a pyarrow dataset."""

import pyarrow as pa
import pyarrow.dataset as ds

from raylatent import schema
from raylatent.errors import RunError, StorageError
from raylatent.run.layout import ACTIVATIONS
from raylatent.storage import Store, reason


def open_rows(store: Store) -> ds.Dataset:
    """The rows of all slides, `slide` declared a string.

    Raises:
        RunError: There are none yet.
        StorageError: They cannot be read.
    """
    by_slide = ds.partitioning(pa.schema([(schema.SLIDE, pa.string())]), flavor="hive")
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    try:
        rows = ds.dataset(
            store.path(ACTIVATIONS),
            filesystem=store.filesystem,
            format=ds.ParquetFileFormat(default_fragment_scan_options=checked),
            partitioning=by_slide,
        )
    except FileNotFoundError as error:
        message = f"{store.uri} has no rows yet: run `raylatent activations` first"
        raise RunError(message) from error
    except (OSError, ValueError) as error:
        message = f"the rows of {store.uri} cannot be read: {reason(error)}"
        raise StorageError(message) from error
    # Else the first part's footer would stand for all.
    return rows.replace_schema(rows.schema.remove_metadata())
