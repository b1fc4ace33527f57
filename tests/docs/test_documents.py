"""What documents say is so: links, commands, the reference, the notebook, the build."""

import inspect
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raylatent.arguments import parse
from raylatent.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
README_LINES = 150
PICTURE_BYTES = 300_000


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def headings(text):
    """Anchors of a text's headings, as GitHub and MyST make them."""
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = re.findall(r"^#+ (.+)$", plain, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in found}


def commands(text):
    """Command lines of raylatent and of its jobs in a text's blocks: verb, arguments."""
    for language, block in re.findall(r"```(.*)\n((?s:.*?))```", text):
        if language:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("raylatent "):
                words = shlex.split(line, comments=True)
                yield words[1], words[2:]
            elif "jobs/atlas.py" in line:
                words = shlex.split(line, comments=True)
                yield "atlas", words[words.index("jobs/atlas.py") + 1 :]


def test_the_readme_is_short_and_its_pictures_are_small():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES
    pictures = re.findall(r'src="([^"]+)"', text)
    assert len(pictures) == 4
    for picture in pictures:
        assert 0 < (ROOT / picture).stat().st_size < PICTURE_BYTES, picture


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        if anchor:
            assert anchor in headings(there.read_text(encoding="utf-8")), target


def test_every_command_is_one_that_the_program_takes():
    found = [given for path in TEXTS for given in commands(path.read_text("utf-8"))]
    assert {verb for verb, _ in found} >= {"atlas", "layers", "bench", "extract-tiles"}
    for verb, arguments in found:
        config = VERBS[verb][0]
        assert isinstance(parse(config, f"raylatent {verb}", arguments), config)


def test_the_reference_of_verbs_is_what_the_configurations_give():
    made = runpy.run_path(str(DOCS / "verbs.py"))["reference"]()
    written = (DOCS / "verbs.md").read_text(encoding="utf-8")
    assert made == written, "run python docs/verbs.py"
    for verb, (config, _) in VERBS.items():
        assert f"\n## {verb}\n\n{inspect.getdoc(config)}" in written


def test_every_document_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = index.partition("{toctree}")[2].split("```")[0].split()
    files = {path.stem for path in [*DOCS.glob("*.md"), *DOCS.glob("*.ipynb")]}
    assert set(listed[2:]) | {"index"} == files


@pytest.mark.ray
@pytest.mark.slow
def test_the_notebook_runs(finished_run, tmp_path, monkeypatch):
    run = tmp_path / "out" / "demo"
    shutil.copytree(finished_run.out, run)
    (run / "demo").mkdir()
    rows = ["slide,region", "a,left", "b é,right", "c,right"]
    (run / "demo" / "annotations.csv").write_text("\n".join(rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    cells = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        assert not cell.get("outputs")
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)  # noqa: S102
    assert len(names["sm"]) == len(names["tiles"])
    for picture in ("tutorial_umap", "tutorial_clusters", "tutorial_mosaic"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 0


@pytest.mark.slow
def test_the_documents_build_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "DatasetFeatures" in (tmp_path / "reference.html").read_text("utf-8")
    assert "atlas" in (tmp_path / "verbs.html").read_text("utf-8")


def test_patterns_of_public_sets_find_what_the_names_tell():
    from raylatent.source.names import Pattern

    text = (DOCS / "sources.md").read_text(encoding="utf-8")
    patterns = re.findall(r"--tiles-pattern '(.+)'", text)
    names = re.findall(r"`(\w+/\S+\.(?:jpg|tif))`", text)
    found = [
        (
            Pattern.of(pattern).group(name, "label"),
            *Pattern.of(pattern).by_slide([name], ""),
        )
        for pattern, name in zip(patterns, names, strict=True)
    ]
    assert found == [("TUMOR", "CRC-Prim-HE-01_015"), ("NORM", "NORM")]
