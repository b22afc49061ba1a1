"""Writes small collections in the layouts in which the real ones are published, for all tests that read them."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ir_datasets.util import DownloadConfig

Judgements = Iterable[tuple[str, str, int]]  # qid, docno, label

ARTICLE = """<?xml version="1.0"?>
<article><front><journal-meta><journal-title>{journal}</journal-title></journal-meta><article-meta>
<title-group><article-title>{title}</article-title></title-group>
{abstract}</article-meta></front><body><p>{body}</p></body></article>"""
CITATION = (
    "<PubmedArticle><MedlineCitation><PMID>{docno}</PMID><Article><ArticleTitle>{title}</ArticleTitle>"
    "<Abstract><AbstractText>{abstract}</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>"
)
CDS_TOPIC = """  <topic number="{qid}" type="diagnosis">
    {note}<description>{description}</description>
    <summary>{summary}</summary>
  </topic>
"""
PM_TOPIC = (
    '<topic number="{qid}"><disease>{disease}</disease><gene>{gene}</gene><demographic>{demographic}</demographic>'
    "{other}</topic>"
)
MIRACL_FILES = 14  # of documents


def write_beir(
    home: Path,
    name: str,
    docs: Iterable[Mapping[str, Any]],
    queries: Iterable[Mapping[str, Any]],
    qrels: Mapping[str, Judgements],
) -> None:
    """Write BEIR's archive where ir_datasets caches it; ``docs`` and ``queries`` are its lines of JSON."""
    source = home / "beir" / name / "source.zip"
    source.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr(f"{name}/corpus.jsonl", json_lines(docs))
        archive.writestr(f"{name}/queries.jsonl", json_lines(queries))
        for split, rows in qrels.items():
            lines = "".join(f"{qid}\t{docno}\t{label}\n" for qid, docno, label in rows)
            archive.writestr(f"{name}/qrels/{split}.tsv", f"query-id\tcorpus-id\tscore\n{lines}")


def put(changed: Any, home: Path, top: str, key: str, content: bytes) -> None:
    """Write a download of ir_datasets where it is cached, and set what is expected of it (``changed``: MonkeyPatch)."""
    entry = DownloadConfig.contents()[top][key]
    path = home / top / entry.get("cache_path", key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    changed.setitem(entry, "size_hint", len(content))
    changed.setitem(entry, "expected_md5", hashlib.md5(content, usedforsecurity=False).hexdigest())


def articles(docs: Mapping[str, Mapping[str, str]]) -> bytes:
    """Return an archive of PubMed Central: docno -> ``title``, ``abstract`` (or none), ``body``."""
    members = {}
    for docno, fields in docs.items():
        abstract = f"<abstract><p>{fields['abstract']}</p></abstract>" if fields.get("abstract") else ""
        text = ARTICLE.format(
            journal=f"J. {docno}", title=fields["title"], abstract=abstract, body=fields.get("body", "")
        )
        members[f"pmc-text-00/00/{docno}.nxml"] = text.encode()
    return tar_gz(members)


def cds_topics(year: int, topics: Sequence[Mapping[str, str]]) -> str:
    """Return TREC CDS topics: ``qid``, ``description``, ``summary``, and ``note`` where there is one."""
    rows = (
        CDS_TOPIC.format(**topic | {"note": f"<note>{topic['note']}</note>\n" if "note" in topic else ""})
        for topic in topics
    )
    head = '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n'
    return f'{head}<topics task="{year} TREC CDS">\n{"".join(rows)}</topics>\n'


def citations(docs: Mapping[str, Mapping[str, str]]) -> bytes:
    """Return an archive of MEDLINE: PMID -> ``title``, ``abstract``."""
    rows = "".join(CITATION.format(docno=docno, **fields) for docno, fields in docs.items())
    text = f'<?xml version="1.0"?>\n<PubmedArticleSet>{rows}</PubmedArticleSet>'
    return tar_gz({"m/part.xml.gz": gzip.compress(text.encode())})


def conference(docs: Mapping[str, Mapping[str, str]]) -> bytes:
    """Return the archive of abstracts of AACR and ASCO: docno -> ``title``, ``abstract``."""
    text = "Meeting: ASCO\nTitle: {title}\n\n{abstract}\n"
    return tar_gz({f"extra/{docno}.txt": text.format(**fields).encode() for docno, fields in docs.items()})


def pm_topics(topics: Sequence[Mapping[str, str]]) -> str:
    """Return TREC PM topics: ``qid``, ``disease``, ``gene``, ``demographic``, and ``other`` where there is one."""
    rows = (
        PM_TOPIC.format(**topic | {"other": f"<other>{topic['other']}</other>" if "other" in topic else ""})
        for topic in topics
    )
    return f"<topics>{''.join(rows)}</topics>"


def trec_qrels(rows: Judgements) -> str:
    """Return judgements as TREC writes them."""
    return "".join(f"{qid} 0 {docno} {label}\n" for qid, docno, label in rows)


def write_miracl(
    home: Path,
    docs: Iterable[Mapping[str, str]],
    topics: Mapping[str, Mapping[str, str]],
    qrels: Mapping[str, Judgements],
) -> Path:
    """Write MIRACL's Japanese files where ir_datasets caches them; ``docs`` go in turn into the files, in order.

    Returns:
        Their folder.
    """
    folder, docs = home / "miracl" / "v1.0" / "ja", list(docs)
    for part in ("docs", *topics):
        (folder / part).mkdir(parents=True, exist_ok=True)
    share = -(-len(docs) // MIRACL_FILES)
    for number in range(MIRACL_FILES):
        with gzip.open(folder / "docs" / f"docs-{number}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write(json_lines(docs[number * share : (number + 1) * share]))
    for split, queries in topics.items():
        (folder / split / "topics.tsv").write_text("".join(f"{qid}\t{query}\n" for qid, query in queries.items()))
        (folder / split / "qrels.tsv").write_text(
            "".join(f"{qid}\tQ0\t{docno}\t{label}\n" for qid, docno, label in qrels[split])
        )
    return folder


def write_ntcir(
    folder: Path,
    letter: str,
    entries: Iterable[Mapping[str, Any]],
    topics: Mapping[str, Mapping[str, str]],
    qrels: Mapping[str, Judgements],
) -> Path:
    """Write the files of NTCIR-15 Data Search, ``letter`` "j" or "e"; splits without judgements have no such file."""
    (folder / f"data_search_{letter}_collection.jsonl.bz2").write_bytes(bz2.compress(json_lines(entries).encode()))
    for split, queries in topics.items():
        lines = "".join(f"{qid}\t{query}\n" for qid, query in queries.items())
        (folder / f"data_search_{letter}_{split}_topics.tsv").write_text(lines)
    for split, rows in qrels.items():
        lines = "".join(f"{qid} {docno} L{label}\n" for qid, docno, label in rows)
        (folder / f"data_search_{letter}_{split}_qrels.txt").write_text(lines)
    return folder


def write_jqara(folder: Path, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> Path:
    """Write JQaRA's splits as lines of JSON with the columns of the hub's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, own in rows.items():
        (folder / f"{split}.jsonl").write_text(json_lines(own))
    return folder


def obo(terms: Iterable[Mapping[str, str]]) -> str:
    """Return an ontology in OBO format: ``id``, ``name``, ``definition`` and a ``lay`` synonym where there is one."""
    stanzas = []
    for term in terms:
        stanza = f'[Term]\nid: {term["id"]}\nname: {term["name"]}\ndef: "{term["definition"]}" [PMID:1]\n'
        stanzas.append(stanza + (f'synonym: "{term["lay"]}" EXACT layperson []\n' if term.get("lay") else ""))
    return "\n".join(["format-version: 1.2\ndata-version: hp/releases/2099-01-01\n", *stanzas])


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a line of JSON for each row."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def tar_gz(members: Mapping[str, bytes]) -> bytes:
    """Return a packed archive of these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()
