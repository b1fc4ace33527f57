"""What public functions take is in their signatures, with the options' own defaults."""

import inspect
from dataclasses import fields
from types import ModuleType

import pytest

import raylatent as sf
from raylatent.config import (
    ActivationsConfig,
    ExtractTilesConfig,
    MapConfig,
    MosaicConfig,
)
from raylatent.mapping.plot import MapStyle
from raylatent.montage.render import Look

# Those that take any keyword, and whose keywords these are.
OTHERS = {
    "DatasetFeatures.map_activations": "umap.UMAP",
    "Features.__call__": "of a WSI: typed by `GridOptions`",
    "SlideMap.plot": "matplotlib's scatter",
    "SlideMap.save": "matplotlib's scatter",
    "SlideMap.save_plot": "matplotlib's scatter",
}


def public_functions(value, name):
    """What can be called of a public module, class or function, with its name."""
    if isinstance(value, ModuleType):
        for inner in getattr(value, "__all__", vars(value)):
            yield from public_functions(getattr(value, inner), inner)
    elif isinstance(value, type):
        if not issubclass(value, Exception):
            yield name, value
            for inner, method in inspect.getmembers(value):
                own = inspect.isfunction(method) or inspect.ismethod(method)
                if own and (not inner.startswith("_") or inner == "__call__"):
                    yield f"{name}.{inner}", method
    elif callable(value):
        yield name, value


FUNCTIONS = {
    name: function
    for public in sf.__all__
    for name, function in public_functions(getattr(sf, public), public)
}


def parameters(function, *, without=()):
    """Defaults by name, but of `self` and keywords of any name."""
    found = inspect.signature(function).parameters
    named = {name: p for name, p in found.items() if p.kind is not p.VAR_KEYWORD}
    return {n: p.default for n, p in named.items() if n not in {"self", *without}}


def defaults(config, *, without=()):
    return {f.name: f.default for f in fields(config) if f.name not in without}


def test_the_public_classes_are_walked():
    wanted = {"atlas", "read", "Features", "Mosaic.plot", "WSI.qc", "SlideMap.load"}
    assert wanted <= set(FUNCTIONS)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_no_argument_is_hidden(name):
    found = inspect.signature(FUNCTIONS[name]).parameters.values()
    kinds = {parameter.kind for parameter in found}
    assert (inspect.Parameter.VAR_KEYWORD in kinds) == (name in OTHERS)


def test_features_of_a_dataset_take_the_options_of_the_verb():
    given = parameters(sf.DatasetFeatures)
    of_model = {"model", "dataset", "layers", "layer", "outdir", "mean", "std"}
    of_model |= {"pooling", "include_preds", "tile_px", "classes"}
    of_verb = {"model", "layers", "pooling", "include_preds", "tile_px"}
    options = defaults(ActivationsConfig, without=of_verb | {"out", "tfrecords"})
    # By default those of the dataset.
    options |= dict.fromkeys(("slides", "tiles", "tile_um", "annotations"))
    assert {n: v for n, v in given.items() if n not in of_model} == options
    of_pictures = {"tiles", "tiles_pattern"}  # a project has TFRecords or slides
    of_project = {n: v for n, v in given.items() if n not in of_pictures}
    found = parameters(sf.Project.generate_features)
    assert found == {**of_project, "dataset": None}


def test_tiles_are_extracted_by_the_options_of_the_verb():
    own = {"tile_px", "tile_um", "filters", "filter_blank"}
    given = parameters(sf.Project.extract_tiles, without=own)
    of_project = {"out", "slides", *own}
    options = defaults(ExtractTilesConfig, without=of_project)
    assert given == {**options, "annotations": None}


def test_a_map_takes_the_options_of_the_verb():
    given = parameters(sf.DatasetFeatures.map_activations)
    without = {"out", "map", "annotations", "label", "umap", "vector"}
    assert given.pop("name") == MapConfig.map
    assert given == defaults(MapConfig, without=without)


def test_a_mosaic_takes_the_same_wherever_it_is_made():
    of_class = parameters(sf.Mosaic, without={"images", "coords"})
    given = parameters(sf.SlideMap.generate_mosaic)
    # Slideflow's own default, and here as many as suit.
    assert of_class["num_tiles_x"] == 50
    assert given == {**of_class, "num_tiles_x": None}
    own = {"features", "umap_kwargs"}
    of_project = parameters(sf.Project.generate_mosaic, without=own)
    assert of_project == {n: v for n, v in given.items() if n != "features"}
    for name in ("num_tiles_x", "select", "grid", "cell_px"):
        assert given[name] == getattr(MosaicConfig, name)
    assert Look.cell_px == MosaicConfig.cell_px


@pytest.mark.parametrize("name", ["plot", "picture", "save"])
def test_the_look_of_a_mosaic_is_the_same_wherever_it_is_drawn(name):
    own = {"ax", "figsize", "path"}
    given = parameters(getattr(sf.Mosaic, name), without=own)
    assert given == {**defaults(Look), "cell_px": None}


@pytest.mark.parametrize("name", ["plot", "save", "save_plot"])
def test_the_style_of_a_map_is_the_same_wherever_it_is_drawn(name):
    own = {"ax", "dpi", "filename", "path", "subsample"}
    given = parameters(getattr(sf.SlideMap, name), without=own)
    style = defaults(MapStyle, without={"scatter"})
    assert given == {**style, "legend_kwargs": None}
