"""Access to ir_datasets, its downloads and caches: consent before large downloads, clear errors on failure."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zipfile import BadZipFile

import pandas as pd
from more_itertools import chunked

from pyterrier_merge.collections.reading.consent import require_consent
from pyterrier_merge.fingerprint import fingerprint

# Errors of requests and wrong checksums are OSErrors; a RuntimeError means that no mirror answered.
_FAILURES = (OSError, RuntimeError, EOFError, BadZipFile, zlib.error, tarfile.TarError, ElementTree.ParseError)
LOOKED_UP = 1_000  # documents held at once during look-ups
SMALL_BYTES = 100_000_000  # limit for downloads without consent


@dataclass(frozen=True)
class Archive:
    """A file that ir_datasets downloads once.

    Attributes:
        url: The address of the download.
        size: Its size in bytes, as ir_datasets states it.
        md5: Its checksum, if one is stated.
        path: The path at which ir_datasets stores it.
        copy: The path at which ir_datasets looks for a user's own copy before a download.
    """

    url: str
    size: int
    md5: str
    path: Path
    copy: Path

    @property
    def present(self) -> bool:
        """Whether nothing has to be downloaded for it."""
        return self.path.exists() or self.copy.exists()


@dataclass(frozen=True, kw_only=True)
class IrdsSource:
    """One corpus of ir_datasets, and the topics and judgements that belong to it.

    Attributes:
        name: The collection, for messages.
        corpus: ir_datasets' name of the documents: ``pmc/v1``.
        files: The downloads that the documents need, as the start of their names within ``etc/downloads.json``; if
            empty, all downloads of the name's first part.
        download: The user has allowed large downloads.
    """

    name: str
    corpus: str
    files: str = ""
    download: bool = False

    @cached_property
    def archives(self) -> list[Archive]:
        """The files that the documents are read from."""
        return self.archives_of(self.files)

    @property
    def download_bytes(self) -> int:
        """Sum of the sizes of ``archives``, in bytes."""
        return sum(archive.size for archive in self.archives)

    def missing_bytes(self, *files: str) -> int | None:
        """Return the bytes of the missing downloads; None if their size is unknown.

        Args:
            files: Names of needed downloads besides those of the documents.
        """
        archives = [*self.archives, *(archive for name in files for archive in self.archives_of(name))]
        missing = [archive.size for archive in archives if not archive.present]
        return sum(missing) if self.archives and all(missing) else None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the checksums of ``archives``."""
        return fingerprint([self.corpus, *(archive.md5 for archive in self.archives)])

    def archives_of(self, files: str) -> list[Archive]:
        """Return the downloads whose name is ``files`` or begins with ``files/``."""
        from ir_datasets.util import DownloadConfig, home_path

        top = self.corpus.split("/")[0]
        entries: dict[str, dict[str, Any]] = DownloadConfig.contents().get(top, {})
        return [
            Archive(
                entry.get("url", "the place that ir_datasets names"),
                entry.get("size_hint", 0),
                entry.get("expected_md5", ""),
                home_path() / top / entry.get("cache_path", key),
                home_path() / "downloads" / entry.get("expected_md5", "none"),
            )
            for key, entry in entries.items()
            if not files or key == files or key.startswith(f"{files}/")
        ]

    def num_docs(self) -> int:
        """Return the number of documents; builds ir_datasets' document store if it does not exist yet."""
        return int(self._built_store().count())

    def document_fields(self) -> tuple[str, ...]:
        """Return the fields of ir_datasets' documents that are strings, and ``text``, without reading documents."""
        kind = load(self.corpus).docs_cls()
        fields = [field for field in kind._fields if field != "doc_id" and kind.__annotations__[field] is str]
        return tuple(dict.fromkeys([*fields, "text"]))

    def documents(self, docnos: Collection[str] | None = None) -> Iterator[Any]:
        """Yield ir_datasets' documents from its document store: the archives are parsed once, and not held in memory.

        Args:
            docnos: Names of documents, which are looked up a thousand at a time, in any order; all when None.
        """
        store = self._built_store()
        with self._reading(self.files):
            if docnos is None:
                yield from load(self.corpus).docs_iter()
            else:
                for some in chunked(sorted(docnos), LOOKED_UP):
                    yield from store.get_many(some).values()

    def queries(self, dataset: str, files: str = "") -> pd.DataFrame:
        """Return the topics of a dataset, with ``qid`` for ``query_id`` and all other fields.

        Args:
            dataset: ir_datasets' name.
            files: The needed downloads, for the message if they fail; those of the documents by default.
        """
        with self._reading(files or self.files):
            return pd.DataFrame(load(dataset).queries_iter()).rename(columns={"query_id": "qid"})

    def qrels(self, dataset: str, files: str = "") -> pd.DataFrame:
        """Return the judgements of a dataset: ``qid``, ``docno``, ``label`` and other fields."""
        with self._reading(files or self.files):
            qrels = pd.DataFrame(load(dataset).qrels_iter())
        return qrels.rename(columns={"query_id": "qid", "doc_id": "docno", "relevance": "label"})

    def require(self) -> None:
        """Require the user's consent before a large download; reject archives that differ from the published ones.

        Raises:
            RuntimeError: Files are missing and may not be downloaded, or one of them is truncated.
        """
        for archive in self.archives:
            _check_tar(archive)
        missing = [archive for archive in self.archives if not archive.present]
        size = sum(archive.size for archive in missing)
        if (missing and (size > SMALL_BYTES or not size)) or not self.archives:
            sources = ", ".join(archive.url for archive in missing[:6]) + (" and more" if len(missing) > 6 else "")
            require_consent(
                self.name,
                said=self.download,
                what=f"the files of {self.corpus} in ir_datasets",
                size=_gigabytes(size) if self.files else f"at most {_gigabytes(size)}" if size else "of unknown size",
                source=sources or "the source that ir_datasets names",
                place=", ".join(str(archive.path) for archive in missing[:6]) or "ir_datasets' home",
            )

    def _built_store(self) -> Any:
        with self._reading(self.files):
            store = load(self.corpus).docs_store()
            built = hasattr(store, "built") and store.built()
        if not built:
            self.require()
            with self._reading(self.files):
                getattr(store, "build", lambda: None)()  # some stores are built on first use
        return store

    @contextmanager
    def _reading(self, files: str) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            from ir_datasets.util import home_path

            archives = self.archives_of(files)
            size = sum(archive.size for archive in archives) / 1e6
            places = "; ".join(f"{archive.url} as {archive.path}" for archive in archives)
            raise RuntimeError(
                f"cannot read {self.name}: {_brief(error)}. ir_datasets downloads it once into {home_path()} (set "
                "IR_DATASETS_HOME before Python starts to choose another folder). Without a network, put the files "
                f"there yourself, {size:.1f} MB from {places}"
            ) from error


def load(dataset: str) -> Any:
    """Return a dataset of ir_datasets.

    Raises:
        ValueError: ir_datasets has none of that name.
    """
    import ir_datasets

    try:
        return ir_datasets.load(dataset)
    except KeyError as error:
        raise ValueError(
            f"ir_datasets has no {dataset!r}; its names are listed at https://ir-datasets.com and by `ir_datasets list`"
        ) from error


def _check_tar(archive: Archive) -> None:
    """Check the size first: a truncated tar stream reads without an error (zip archives raise one)."""
    if not archive.path.name.endswith(".tar.gz") or not archive.path.exists():
        return
    size = archive.path.stat().st_size
    if size == archive.size:
        return
    digest = hashlib.md5(usedforsecurity=False)
    with archive.path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if (md5 := digest.hexdigest()) != archive.md5:
        raise RuntimeError(
            f"{archive.path} is truncated or another file: it has {size:,} bytes and MD5 {md5}, expected "
            f"{archive.size:,} and {archive.md5}; delete it, and fetch it again from {archive.url}"
        )


def _brief(error: Exception) -> str:
    """Shorten ir_datasets' error when no mirror answers: it holds a page of errors, one for each mirror."""
    return str(error.args[0]) if isinstance(error, RuntimeError) and error.args else str(error)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
