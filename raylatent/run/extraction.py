"""The directory of a run that extracts tiles into TFRecords."""

import json
from typing import Any

from raylatent.parts import partition_folder
from raylatent.run.directory import RunDirectory
from raylatent.run.layout import FINISHED, FOLDERS, TILES


class ExtractionDirectory(RunDirectory):
    """A run that extracts tiles: its parts hold encoded tiles until a slide is whole."""

    rows = TILES

    @property
    def folders(self) -> tuple[str, ...]:
        """Where files of the run are written; TFRecords are in a folder of their size."""
        of_tiles: dict[str, Any] = self.settings()["fields"].get("slides") or {}
        return (*FOLDERS, str(of_tiles.get("folder", TILES)))

    def _clear(self) -> None:
        """Also the TFRecords, if they are of another configuration."""
        for record in self.store.list(FINISHED):
            written = str(json.loads(self.store.read(record))["tfrecord"])
            self.store.delete(written)
            self.store.delete(written.removesuffix(".tfrecords") + ".index.npz")
        super()._clear()

    def finished(self, slide: str) -> str:
        """The name of the record that a slide's TFRecord is in place."""
        return f"{FINISHED}/{partition_folder(slide)}/record.json"
