"""A run's rows as a pyarrow dataset."""

import pyarrow as pa
import pyarrow.dataset as ds

from raylatent import schema
from raylatent.errors import RunError, StorageError
from raylatent.parts import is_part
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
    parquet = ds.ParquetFileFormat(default_fragment_scan_options=checked)
    try:
        listed = ds.dataset(
            store.path(ACTIVATIONS),
            schema=by_slide.schema,
            filesystem=store.filesystem,
            format=parquet,
            partitioning=by_slide,
        )
        # Not what else lies there, as a part's copy under another name.
        parts = [one for one in listed.get_fragments() if _is_part(one.path)]
        if not parts:
            raise FileNotFoundError  # noqa: TRY301
        columns = parts[0].physical_schema.remove_metadata()
    except FileNotFoundError as error:
        message = f"{store.uri} has no rows yet: run `raylatent activations` first"
        raise RunError(message) from error
    except (OSError, ValueError) as error:
        message = f"the rows of {store.uri} cannot be read: {reason(error)}"
        raise StorageError(message) from error
    # Without metadata: else the first part's footer would stand for all.
    columns = pa.schema([*columns, *by_slide.schema])
    return ds.FileSystemDataset(parts, columns, parquet, store.filesystem)


def _is_part(path: str) -> bool:
    return is_part("/".join(path.split("/")[-3:])) and (
        path.split("/")[-3] == ACTIVATIONS
    )
