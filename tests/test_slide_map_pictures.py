"""Pictures of a SlideMap."""

import pytest
from PIL import Image

from raylatent.errors import MapError
from tests.test_slide_map import make_map


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_save_with_a_pictures_ending_draws(tmp_path, suffix):
    slide_map = make_map()
    slide_map.label_by_slide()
    slide_map.save(tmp_path / f"umap.{suffix}", title="tiles", s=9, alpha=0.5)
    assert (tmp_path / f"umap.{suffix}").stat().st_size > 5000
    with pytest.raises(MapError, match="'title' is of plots"):
        slide_map.save(tmp_path / "map", title="tiles")


def test_plot_takes_slideflows_arguments(tmp_path):
    import matplotlib.pyplot as plt

    slide_map = make_map()
    ax = slide_map.plot(s=5, subsample=20, xlim=(0, 1), cmap=None)
    assert len(ax.collections[0].get_offsets()) == 20
    assert ax.get_xlim() == (0, 1)
    slide_map.label_by_slide()
    assert slide_map.plot(ax=ax, title="again") is ax
    slide_map.save_plot(tmp_path / "x.png", dpi=50)
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width > 300
    plt.close("all")


@pytest.mark.parametrize("name", ["umap.jpg", "umap.JPEG", "umap.tif"])
def test_a_picture_that_cannot_be_written_is_no_folder(tmp_path, name):
    with pytest.raises(MapError, match=r"saved as \.png, \.pdf, \.svg"):
        make_map().save(tmp_path / name)
    assert not (tmp_path / name).exists()
