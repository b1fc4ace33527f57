"""Manifests: path, size and digest of each file that a verb left in a run.

The writer of a file computes its digest before the file is put in place. The digest is
the seal in a Parquet file's footer, the `digest` of a JSON object; that of a picture,
an archive of arrays or a TFRecord is told by a sealed file beside it, or by the verb. A
manifest copies these digests and computes none.

A manifest is deleted before the first of its files changes, and put in place after the
last: one that is there is that of the files that are there. It is for `verify`; what
is done is decided by the parts alone.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from raylatent import schema
from raylatent.claim import Claim, new_token
from raylatent.errors import BrokenPartError
from raylatent.parts import check_part, read_footer, write_part
from raylatent.run import layout
from raylatent.run.directory import RunDirectory
from raylatent.run.layout import is_inside, is_ours, manifest_of, manifest_of_folder
from raylatent.run.settings import RUN_JSON
from raylatent.seal import DIGEST, FILES, content_digest, content_hasher, parse_json
from raylatent.storage import Store, retry, write_file

_THREADS = 16
_CHUNK = 16 << 20  # bytes of a large file that are held
_GRID = re.compile(rf"((?:{layout.REMOVED}/)?){layout.GRIDS}/(slide=[^/]+)/.*")


@dataclass(frozen=True)
class Listed:
    """A file in a manifest.

    Attributes:
        size: In bytes.
        digest: As its writer gave it.
    """

    size: int
    digest: str


Files: TypeAlias = dict[str, Listed]


def told_digests(name: str, about: Mapping[str, Any]) -> dict[str, str]:
    """Digests that a sound file tells: its own, and those of files that belong to it.

    Args:
        name: The file.
        about: Its footer, or the JSON object that it holds.

    >>> told_digests("maps/b/map.json", {"digest": "1", "files": {"model.npz": "2"}})
    {'maps/b/map.json': '1', 'maps/b/model.npz': '2'}
    """
    told = {}
    own = about.get(schema.FOOTER_SEAL if name.endswith(".parquet") else DIGEST)
    if own is not None:
        told[name] = str(own)
    match = _GRID.fullmatch(name)
    if match is not None and schema.FOOTER_THUMBNAIL in about:
        thumbnail = f"{match[1]}{layout.THUMBNAILS}/{match[2]}/grid.jpg"
        told[thumbnail] = about[schema.FOOTER_THUMBNAIL]
    files = about.get(FILES)
    if isinstance(files, dict):
        in_run = name.startswith(f"{layout.FINISHED}/")  # TFRecords lie elsewhere
        folder = "" if in_run else f"{name.rpartition('/')[0]}/"
        beside = {f"{folder}{file}": str(digest) for file, digest in files.items()}
        told |= {file: digest for file, digest in beside.items() if is_inside(file)}
    return told


def _read_digests(store: Store, name: str) -> dict[str, str]:
    try:
        if name.endswith(".parquet"):
            return told_digests(name, read_footer(store, name)[1])
        return told_digests(name, parse_json(store.read(name)) or {})
    except BrokenPartError:
        return {}  # not listed: `verify` looks at the file itself


def _list_files(
    store: Store, folders: Iterable[str], files: Iterable[str], known: Mapping[str, str]
) -> Files:
    """What lies in some folders of a run, with the digests of the writers.

    Args:
        store: The run directory.
        folders: Below it.
        files: Others, which tell their own digests.
        known: Digests that are known already, also of files elsewhere.
    """
    sizes: dict[str, int | None] = {}
    for folder in folders:
        sizes |= {n: size for n, size in store.sizes(folder).items() if is_ours(n)}
    telling = [n for n in (*sizes, *files) if n.endswith((".parquet", ".json"))]
    with ThreadPoolExecutor(_THREADS) as pool:
        told: dict[str, str] = {}
        unread = [name for name in telling if name not in known]
        for found in pool.map(lambda name: _read_digests(store, name), unread):
            told |= found
        told |= known
        elsewhere = [name for name in told if name not in sizes]
        sizes |= zip(elsewhere, pool.map(store.size, elsewhere), strict=True)
    return {
        name: Listed(size, told[name])
        for name, size in sizes.items()
        if size is not None and name in told
    }


def _put_manifest(store: Store, name: str, files: Files) -> None:
    rows = sorted((path, one.size, one.digest) for path, one in files.items())
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table(list(map(list, columns)), schema=schema.LISTED_FILES)
    write_part(store, name, table, {})


def read_manifest(store: Store, name: str) -> Files:
    """The files that a manifest lists.

    Raises:
        BrokenPartError: It is not as it was written.
        StorageError: It is not there, or cannot be read.
    """
    table = check_part(store, name, schema.LISTED_FILES.names).table
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return {path: Listed(size, digest) for path, size, digest in rows}


def run_of_folder(folder: str) -> tuple[Store, str] | None:
    """The run that a map's or mosaic's folder is in, and the name of its manifest.

    None where it is in no run.
    """
    place = manifest_of_folder(folder)
    if place is None or not Store(place[0]).exists(RUN_JSON):
        return None
    return Store(place[0]), place[1]


@contextmanager
def relisted(
    folder: str, *, anew: bool = False, claimed: bool = False
) -> Iterator[dict[str, str]]:
    """The manifest of a map or mosaic while some of its files are written anew.

    It is deleted before, and put in place at the end of the block, which gives the
    digests of what it wrote; meanwhile the run is claimed. Outside of a run there is
    neither.

    Args:
        folder: Of the map or mosaic.
        anew: Whether all files are, so that nothing of the manifest before holds.
        claimed: Whether the caller holds the claim on the run.

    Yields:
        Digests by the name of a file in the folder, to be filled in.

    Raises:
        ClaimError: Another driver works on the run.
    """
    digests: dict[str, str] = {}
    place = run_of_folder(folder)
    if place is None:
        yield digests
        return
    store, manifest = place
    with nullcontext() if claimed else Claim(store, new_token()):
        before: Files = {}
        if store.exists(manifest):
            with suppress(BrokenPartError):
                before = read_manifest(store, manifest)
            store.delete(manifest)
        yield digests
        own = folder.removeprefix(f"{store.uri}/")
        known = {} if anew else {path: one.digest for path, one in before.items()}
        known |= {f"{own}/{name}": digest for name, digest in digests.items()}
        _put_manifest(store, manifest, _list_files(store, [own], (), known))


def put_listed(uri: str, data: bytes) -> None:
    """Write a picture or table, which is listed anew if it is of a run's map or mosaic.

    Args:
        uri: The file.
        data: Its content.
    """
    folder, name = uri.rsplit("/", 1)
    with relisted(folder) as digests:
        write_file(uri, data)
        digests[name] = content_digest(data)


def put_run_manifest(run: RunDirectory, digests: Mapping[str, str]) -> None:
    """Put the manifest in place of the verb that made a run: all but maps and mosaics.

    Args:
        run: The run.
        digests: That the verb knows.
    """
    others = {layout.MAPS, layout.MOSAICS, layout.EXPLORER, layout.MANIFESTS}
    folders = [folder for folder in layout.FOLDERS if folder not in others]
    own = (RUN_JSON, layout.SOURCES, layout.REPORT)
    files = _list_files(run.store, folders, own, digests)
    _put_manifest(run.store, manifest_of(run.verb), files)


def digest_of_file(store: Store, name: str) -> Listed:
    """Size and digest of a file as it is, read in pieces.

    Raises:
        StorageError: It is not there, or cannot be read.
    """

    def action() -> Listed:
        hasher = content_hasher()
        size = 0
        with store.filesystem.open_input_file(store.path(name)) as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
                size += len(chunk)
        return Listed(size, hasher.hexdigest())

    return retry(action, f"read {store.uri}/{name}")
