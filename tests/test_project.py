"""Project and Dataset: folders and annotations."""

import pytest

import raylatent as sf
from raylatent.errors import AnnotationsError, ConfigError, SourceError
from raylatent.source.record import TileRecord
from raylatent.source.write import write_tfrecord

ANNOTATIONS = """\
patient,slide,subtype,site,note
p1,s1,A,north,
p2,s2,B,north,x
p3,s3,A,south,x
p4,elsewhere,C,south,x
"""


@pytest.fixture
def root(tmp_path):
    for slide in ("s1", "s2", "s3", "s4"):
        record = TileRecord(b"x", slide, 1, 2)
        folder = tmp_path / "tfrecords" / "96px_96um"
        write_tfrecord(folder / f"{slide}.tfrecords", [record])
    (tmp_path / "annotations.csv").write_text(ANNOTATIONS)
    (tmp_path / "tfrecords" / "96px_96um" / "._s1.tfrecords").write_bytes(b"macOS")
    return tmp_path


def test_all_slides_also_without_annotation(root):
    dataset = sf.Project(root).dataset(96, 96)
    assert dataset.slides() == ["s1", "s2", "s3", "s4"]
    assert len(dataset.tfrecords()) == 4


@pytest.mark.parametrize(
    ("filters", "blank", "expected"),
    [
        ({"subtype": "A"}, (), ["s1", "s3"]),
        ({"subtype": ["A", "B"]}, (), ["s1", "s2", "s3"]),
        ({"subtype": ["A"], "site": "south"}, (), ["s3"]),
        ({"slide": ["s2"]}, (), ["s2"]),
        (None, "note", ["s2", "s3"]),
        ({"site": "north"}, ["note"], ["s2"]),
    ],
)
def test_filters(root, filters, blank, expected):
    project = sf.Project(root)
    dataset = project.dataset(filters=filters, filter_blank=blank)
    assert dataset.slides() == expected
    assert project.dataset().filter(filters or {}, blank).slides() == expected


def test_filters_add_up(root):
    dataset = sf.Project(root).dataset(filters={"subtype": "A"})
    assert dataset.filter({"site": "north"}).slides() == ["s1"]
    assert dataset.slides() == ["s1", "s3"]


def test_filters_that_make_no_sense(root):
    project = sf.Project(root)
    with pytest.raises(AnnotationsError, match=r"'stage' \(they have patient, slide"):
        project.dataset(filters={"stage": "1"})
    with pytest.raises(AnnotationsError, match="'stage'"):
        project.dataset(filter_blank="stage")
    with pytest.raises(SourceError, match=r"no slide of .* is left"):
        project.dataset(filters={"subtype": "Z"})
    (root / "annotations.csv").unlink()
    with pytest.raises(AnnotationsError, match="nothing to filter by"):
        sf.Project(root).dataset(filters={"subtype": "A"})


def test_labels(root):
    dataset = sf.Project(root).dataset()
    names = {"s1": "A", "s2": "B", "s3": "A"}
    assert dataset.labels("subtype", format="name") == (names, ["A", "B"])
    assert dataset.labels("subtype") == ({"s1": 0, "s2": 1, "s3": 0}, ["A", "B"])
    assert dataset.filter({"site": "south"}).labels("subtype")[1] == ["A"]
    with pytest.raises(ConfigError, match="format is 'names'"):
        dataset.labels("subtype", format="names")
    with pytest.raises(AnnotationsError, match="'stage'"):
        dataset.labels("stage")


def test_slides_and_values_as_people_write_them(root, caplog):
    text = "slide, subtype\ns1.svs,A \n s2,\u00a0B\ns3 ,A\n"
    (root / "annotations.csv").write_text(text)
    project = sf.Project(root)
    labels, unique = project.dataset().labels(" subtype", format="name")
    assert (labels, unique) == ({"s1": "A", "s2": "B", "s3": "A"}, ["A", "B"])
    assert project.dataset(filters={"subtype": "A "}).slides() == ["s1", "s3"]
    assert project.dataset(filters={"slide": "s2"}).slides() == ["s2"]
    assert project.dataset(filters={"subtype": ["B", "a"]}).slides() == ["s2"]
    assert "no slide has 'a' in the column 'subtype'" in caplog.text


def test_labels_of_other_slides(root):
    (root / "annotations.csv").write_text("slide,subtype\nS1,A\n")
    says = r"have no 'subtype' of any of the 4 slides, as 's1'.* \(is 'S1' meant to be"
    with pytest.raises(AnnotationsError, match=says):
        sf.Project(root).dataset().labels("subtype")
    (root / "annotations.csv").unlink()
    with pytest.raises(AnnotationsError, match=r"has no annotations\.csv"):
        sf.Project(root).dataset().labels("subtype")


def test_annotations_without_slides(root):
    (root / "annotations.csv").write_text("patient,subtype\np1,A\n")
    with pytest.raises(AnnotationsError, match="'slide'"):
        sf.Project(root)


def test_a_project_that_is_not_there(tmp_path):
    for path in (tmp_path / "gone", str(tmp_path), "memory://nowhere/project"):
        with pytest.raises(SourceError, match="no such project"):
            sf.Project(path)


def test_a_project_without_tiles(tmp_path):
    (tmp_path / "annotations.csv").write_text(ANNOTATIONS)
    with pytest.raises(SourceError, match="holds no"):
        sf.Project(tmp_path).dataset()


def test_folders_of_runs(root):
    project = sf.Project(root)
    whole = project.dataset()
    assert whole.features_folder("net") == f"{root}/features/net-{{fingerprint}}"
    assert project.dataset(96, 96).features_folder("net") == whole.features_folder(
        "net"
    )
    assert (
        whole.features_folder("org/a b@1")
        == f"{root}/features/org_a_b_1-{{fingerprint}}"
    )
    assert whole.features_folder("..") == f"{root}/features/model-{{fingerprint}}"
    filtered = [
        project.dataset(filters={"subtype": "A"}),
        project.dataset(filters={"subtype": ["A", "B"]}),
        project.dataset(filters={"site": "north"}),
        project.dataset(filter_blank="note"),
    ]
    folders = {d.features_folder("net") for d in filtered} | {
        whole.features_folder("net")
    }
    assert len(folders) == 5
    same = [
        project.dataset(filters={"subtype": ["A", "B"], "site": "north"}),
        project.dataset(filters={"site": ["north"], "subtype": ["B", "A", "A"]}),
        project.dataset(filters={"site": "north"}).filter({"subtype": ["A", "B"]}),
    ]
    assert len({d.features_folder("net") for d in same}) == 1


def test_a_project_at_a_uri(root):
    from raylatent.storage import Store

    store = Store("memory://projects/one")
    for path in (p for p in root.rglob("*") if p.is_file()):
        store.write(path.relative_to(root).as_posix(), path.read_bytes())
    dataset = sf.Project("memory://projects/one").dataset(96, 96)
    assert dataset.slides() == ["s1", "s2", "s3", "s4"]
    assert (
        dataset.tfrecords()[0]
        == "memory://projects/one/tfrecords/96px_96um/s1.tfrecords"
    )
    assert dataset.labels("subtype")[1] == ["A", "B"]
