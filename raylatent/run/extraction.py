"""The directory of a run that extracts tiles into TFRecords."""

from collections.abc import Container
from typing import Any

from raylatent.errors import RunError
from raylatent.parts import partition_folder, slide_of
from raylatent.run.directory import RunDirectory
from raylatent.run.layout import FINISHED, FOLDERS, TILES

SUFFIX = ".tfrecords"
INDEX_SUFFIX = ".index.npz"


class ExtractionDirectory(RunDirectory):
    """A run that extracts tiles: its parts hold encoded tiles until a slide is whole."""

    rows = TILES
    verb = "extract-tiles"

    @property
    def folder(self) -> str:
        """Where the TFRecords are; empty: in the run directory itself."""
        of_tiles: dict[str, Any] = self.settings()["fields"].get("slides") or {}
        folder = str(of_tiles.get("folder", ""))
        return folder if "/" not in folder and folder.strip(".") else ""

    @property
    def folders(self) -> tuple[str, ...]:
        """Where files of the run are written."""
        return (*FOLDERS, self.folder) if self.folder else FOLDERS

    def inside(self, name: str) -> str:
        """The name in the run directory of a file beside the TFRecords."""
        return f"{self.folder}/{name}" if self.folder else name

    def tfrecord(self, slide: str) -> str:
        """The name of a slide's TFRecord in the run directory.

        Raises:
            RunError: No file can be called so.
        """
        if "/" in slide or "\0" in slide:
            message = f"{self.uri} names a slide {slide!r}, which no file can be called"
            raise RunError(message)
        return self.inside(f"{slide}{SUFFIX}")

    def finished(self, slide: str) -> str:
        """The name of the record that a slide's TFRecord is in place."""
        return f"{FINISHED}/{partition_folder(slide)}/record.json"

    def forget(self, slide: str, there: Container[str]) -> None:
        """Delete a slide's TFRecord, the record of it first.

        Args:
            slide: Its name.
            there: Names of the files that are there.
        """
        self.store.delete(self.finished(slide))
        for name in self._files(slide):
            if name in there:
                self.store.delete(name)

    def _files(self, slide: str) -> tuple[str, str]:
        """Index and TFRecord of a slide."""
        tfrecord = self.tfrecord(slide)
        return f"{tfrecord.removesuffix(SUFFIX)}{INDEX_SUFFIX}", tfrecord

    def _clear(self) -> None:
        """Also the TFRecords, which are of another configuration."""
        try:
            there = set(self.store.list(self.folder))
            slides = {slide_of(name) for name in self.store.list(FINISHED)} - {None}
            written = [name for slide in slides for name in self._files(str(slide))]
        except RunError:  # it was being cleared: they are deleted as they are redone
            there, written = set(), []
        super()._clear()
        for name in written:
            if name in there:
                self.store.delete(name)
