"""Fitted maps in their folders: what is saved, and what is told of broken ones."""

import numpy as np
import pytest

from raylatent.errors import MapError, StorageError
from raylatent.mapping.fitted_map import MODEL_NPZ, FittedMap
from raylatent.storage import Store
from raylatent.stored.maps import MAP_JSON, load_map, save_map


def test_save_and_load_keep_every_bit_without_pickle(tmp_path, fitted, new_rows):
    store = Store(str(tmp_path / "map"))
    save_map(store, fitted.with_info(layer="postconv"))
    assert sorted(store.list()) == [MAP_JSON, MODEL_NPZ]
    with np.load(tmp_path / "map" / MODEL_NPZ, allow_pickle=False) as archive:
        assert all(archive[name].dtype.kind in "fi" for name in archive.files)
    opened = load_map(store)
    assert opened.info["layer"] == "postconv"
    assert opened.parameters == fitted.parameters
    for left, right in zip(
        opened.place(new_rows[0]), fitted.place(new_rows[0]), strict=True
    ):
        assert left.tobytes() == right.tobytes()


def test_broken_folders_are_told(tmp_path, fitted):
    store = Store(str(tmp_path))
    with pytest.raises(MapError, match=r"holds no map\.json"):
        load_map(store)
    save_map(store, fitted.with_info(format_version=99))
    with pytest.raises(MapError, match="map format 99"):
        load_map(store)
    save_map(store, fitted)
    store.write(MODEL_NPZ, b"no zip")
    with pytest.raises(StorageError, match=r"model\.npz is broken"):
        load_map(store)


@pytest.mark.slow
def test_what_each_engine_needs_is_what_is_saved(fitted, manhattan):
    from raylatent.mapping.sample_index import Projection, Sample
    from raylatent.stored import maps as module

    rows, umap = module._ARRAYS[module.ROW_ENGINE], module._ARRAYS[module.UMAP_ENGINE]
    assert {*Projection._fields, *Sample._fields} <= set(rows)
    # Maps that were fitted before novelty left a row out lack `nearest`, and open.
    assert set(fitted.arrays) - set(rows) == {"nearest"}
    assert set(rows) <= set(fitted.arrays)
    assert set(umap) <= set(manhattan.arrays)


def test_a_damaged_model_is_told(tmp_path, fitted):
    small = {name: values[:2] for name, values in fitted.arrays.items()}
    store = Store(str(tmp_path))
    save_map(store, FittedMap(info=fitted.info, arrays=small))
    whole = store.read(MODEL_NPZ)
    sizes = range(0, len(whole), 997)
    flips = np.random.default_rng(0).integers(0, len(whole), 300)
    # What is told at the end of an archive: names, sizes, checksums, methods.
    flips = [*flips, *range(len(whole) - 900, len(whole), 3)]
    damaged = [whole[:size] for size in sizes]
    damaged += [whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :] for i in flips]
    sentences = []
    for content in damaged:
        store.write(MODEL_NPZ, content)
        try:
            found = load_map(store).arrays
        except StorageError as error:
            sentences.append(str(error))
        else:  # a byte that does not matter
            for name, values in small.items():
                assert found[name].tobytes() == values.tobytes()
    assert len(sentences) > len(damaged) / 2
    assert all(f"{MODEL_NPZ} is broken: " in said for said in sentences)
    assert not any("\n" in said for said in sentences)
    with (tmp_path / MODEL_NPZ).open("wb") as file:
        np.savez(file, **{n: v for n, v in small.items() if n != "residual"})
    with pytest.raises(StorageError, match="it lacks residual"):
        load_map(store)


@pytest.mark.parametrize("version", ["1", None, 1.5, True, [1]])
def test_a_format_version_that_is_no_number(tmp_path, fitted, version):
    store = Store(str(tmp_path))
    save_map(store, fitted.with_info(format_version=version))
    with pytest.raises(MapError, match=r"map\.json is broken"):
        load_map(store)
