"""The folder of all galleries: one sub-folder each."""

from __future__ import annotations

import shutil
from pathlib import Path

from serving.errors import NotFound
from serving.errors_gallery import GalleryExists
from serving.gallery import snapshot
from serving.gallery.facts import FACTS, NAME, Facts, sync_folder, write_facts
from serving.gallery.reader import GalleryReader
from serving.gallery.view import View
from serving.gallery.writer import GalleryWriter


class Galleries:
    """Galleries by name. Readers are kept, so that asking again is cheap; one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._readers: dict[str, GalleryReader] = {}

    def names(self) -> list[str]:
        """Galleries there are, by name."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if NAME.match(p.name) and (p / FACTS).is_file())

    def get(self, name: str) -> GalleryReader:
        """The gallery; NotFound with the names there are."""
        if not NAME.match(name) or not (self.folder / name / FACTS).is_file():
            self._readers.pop(name, None)
            raise NotFound(f"no gallery {name[:60]!r}; there are: {', '.join(self.names()) or 'none'}",
                           hint="`lockstep galleries create`, or POST /v1/galleries")  # fmt: skip
        return self._readers.setdefault(name, GalleryReader(self.folder / name))

    def create(self, facts: Facts) -> GalleryReader:
        """A new, empty gallery: it appears by rename. GalleryExists."""
        home, fresh = self.folder / facts.name, self.folder / f".{facts.name}.new"
        if home.exists():
            raise GalleryExists(f"gallery {facts.name} exists", hint="choose another name, or delete it")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        snapshot.write(fresh, 0, View.empty(), 1)
        write_facts(fresh, facts)
        try:
            fresh.rename(home)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise GalleryExists(f"gallery {facts.name} exists", hint="choose another name, or delete it") from None
        sync_folder(self.folder)
        return self.get(facts.name)

    def delete(self, name: str, wait_s: float = 5.0) -> None:
        """The gallery with all it holds, taken away by rename first. NotFound; GalleryBusy after `wait_s`."""
        with GalleryWriter(self.get(name), wait_s):
            gone = self.folder / f".{name}.gone"
            shutil.rmtree(gone, ignore_errors=True)
            (self.folder / name).rename(gone)
        self._readers.pop(name, None)
        shutil.rmtree(gone, ignore_errors=True)
        sync_folder(self.folder)
