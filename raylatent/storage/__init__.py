"""Files below one root, a local folder or any URI that pyarrow or fsspec opens.

Nothing is ever visible half-written: a file is put in place in one step, locally by
writing aside and renaming, on an object store by one PUT.
"""

from raylatent.storage.paths import (
    NOT_SEEN,
    FileStat,
    absolute,
    file_stat,
    is_folder,
    is_inside,
    is_uri,
    list_files,
    list_stats,
    look_at,
    open_input,
    reason,
    retry,
)
from raylatent.storage.store import ASIDE_SUFFIX, Store, write_file

__all__ = [
    "ASIDE_SUFFIX",
    "NOT_SEEN",
    "FileStat",
    "Store",
    "absolute",
    "file_stat",
    "is_folder",
    "is_inside",
    "is_uri",
    "list_files",
    "list_stats",
    "look_at",
    "open_input",
    "reason",
    "retry",
    "write_file",
]
