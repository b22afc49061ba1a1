"""The files of evaluation campaigns: judgements, topics and documents in the formats of TREC, BEIR, NTCIR and SMART."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from pyterrier_merge.collections.names import squeezed
from pyterrier_merge.collections.reading.files import place, read_columns, read_lines

_SCORE_HEADERS = {"score", "label", "relevance", "rel", "grade"}
_LABEL = re.compile(r"[+-]?[0-9]{1,9}")
_TAG = re.compile(r"<[/!?]?[A-Za-z-][^<>]*>")  # "p < 0.05 and q > 2" has none
_DOCNO = re.compile(r"<DOCNO>(.*?)</DOCNO>", re.IGNORECASE | re.DOTALL)
_TOPIC_FIELD = re.compile(r"<(\w+)>(.*?)(?=</?\w+>|\Z)", re.DOTALL)
_SMART_SECTION = re.compile(r"^\.([A-Z])(?:\s+(\S+))?\s*$")


def read_qrels(path: Path, *, grades: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Read judgements: ``qid iteration docno label`` (TREC), or ``qid docno label`` with or without a header (BEIR).

    Args:
        path: The file, its columns parted by tabs or by other white space.
        grades: Labels that are words, and their grades. None where labels are whole numbers.

    Returns:
        Columns ``qid``, ``docno`` and ``label``, in the file's order.

    Raises:
        ValueError: A line has neither three nor four columns, a label is unknown, a judgement is given twice, or there
            is none.
    """
    rows: dict[tuple[str, str], int] = {}
    lines: dict[tuple[str, str], int] = {}
    for number, cells in read_columns(path, tabs_only=False):
        if len(cells) not in (3, 4):
            raise ValueError(
                f"{place(path, number)}: a judgement has three columns (qid docno label) or four (qid iteration docno "
                f"label), found {len(cells)}: {' '.join(cells)!r}"
            )
        qid, docno, label = cells[0], cells[-2], cells[-1]
        if not lines and label.lower() in _SCORE_HEADERS:
            continue
        key = (qid, docno)
        if key in rows:
            raise ValueError(
                f"{place(path, number)}: qid {qid!r} and docno {docno!r} are judged already in line {lines[key]}"
            )
        rows[key], lines[key] = _grade(path, number, label, grades), number
    if not rows:
        raise ValueError(f"{path}: there is no judgement in it")
    return pd.DataFrame([(*key, label) for key, label in rows.items()], columns=["qid", "docno", "label"])


def read_xml_topics(path: Path) -> pd.DataFrame:
    """Read topics of the form ``<topics><topic number="1"><disease>...``.

    Returns:
        A column ``qid`` and one for each element that a topic has; missing ones are empty strings.

    Raises:
        ValueError: The file is no such XML, a topic has no number, or there is none.
    """
    try:
        root = ElementTree.fromstring("\n".join(line for _, line in read_lines(path)))  # noqa: S314 (expat guards)
    except ElementTree.ParseError as error:
        raise ValueError(f"{place(path, error.position[0])}: no XML ({error})") from error
    topics = []
    for position, topic in enumerate(root.iter("topic"), start=1):
        number = (topic.get("number") or topic.findtext("number") or "").strip()
        if not number:
            raise ValueError(f"{path}: topic {position} has no number")
        fields = {field.tag: squeezed("".join(field.itertext())) for field in topic if field.tag != "number"}
        topics.append({"qid": number, **topic.attrib, **fields})
    if not topics:
        raise ValueError(f"{path}: there is no <topic> in <{root.tag}>")
    return pd.DataFrame(topics).fillna("").drop(columns="number", errors="ignore")


def read_trec_topics(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, qid and title of topics of the form ``<top> <num> Number: 301 <title> ... </top>``."""
    for number, block in _blocks(path, "top"):
        fields = {tag.lower(): squeezed(html.unescape(text)) for tag, text in _TOPIC_FIELD.findall(block)}
        qid = fields.get("num", "").removeprefix("Number:").strip()
        if not qid or "title" not in fields:
            raise ValueError(f"{place(path, number)}: a <top> without <num> or <title>; it has {', '.join(fields)}")
        yield number, qid, fields["title"].removeprefix("Topic:").strip()


def read_trec_documents(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line and document of ``<DOC> <DOCNO>1</DOCNO> ... </DOC>``: all text but the docno, in its order."""
    for number, block in _blocks(path, "DOC"):
        docno = _DOCNO.search(block)
        if docno is None:
            raise ValueError(f"{place(path, number)}: a <DOC> without <DOCNO>")
        text = html.unescape(_TAG.sub(" ", block[: docno.start()] + block[docno.end() :]))
        yield number, {"docno": docno.group(1).strip(), "text": squeezed(text)}


def read_smart(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line and document of ``.I 1``, then sections; ``.T`` (title) and ``.W`` (words) are read.

    A last ``.I`` with nothing after it is passed over: MED ends in one.
    """
    started, fields, section = 0, dict[str, str](), ""
    for number, line in read_lines(path):
        mark = _SMART_SECTION.match(line)
        if mark and mark.group(1) == "I":
            if "I" in fields:
                yield started, _smart_document(fields)
            started, fields, section = number, {"I": mark.group(2)} if mark.group(2) else {}, ""
        elif not line.strip():
            continue
        elif "I" not in fields:
            raise ValueError(f"{place(path, started or number)}: expected '.I' and an identifier before {line[:80]!r}")
        elif mark and not mark.group(2):
            section = mark.group(1)
        else:
            fields[section] = f"{fields.get(section, '')} {line}"
    if "I" in fields:
        yield started, _smart_document(fields)


def _smart_document(fields: Mapping[str, str]) -> dict[str, str]:
    title, words = (squeezed(fields.get(section)) for section in "TW")
    return {"docno": fields["I"], **({"title": title} if title else {}), "text": f"{title} {words}".strip()}


def _grade(path: Path, number: int, label: str, grades: Mapping[str, int] | None) -> int:
    if grades is not None:
        if label not in grades:
            raise ValueError(f"{place(path, number)}: unknown grade {label!r}; there are {', '.join(grades)}")
        return grades[label]
    if not _LABEL.fullmatch(label):
        raise ValueError(f"{place(path, number)}: the label {label!r} is no whole number of at most nine digits")
    return int(label)


def _blocks(path: Path, tag: str) -> Iterator[tuple[int, str]]:
    """Yield the first line's number and the inside of each ``<tag> ... </tag>``; other lines hold nothing but a tag."""
    opening, closing = re.compile(f"<{tag}>", re.IGNORECASE), re.compile(f"</{tag}>", re.IGNORECASE)
    start, inside = 0, list[str]()
    for number, line in read_lines(path):
        opened = opening.search(line)
        if opened and start:
            raise ValueError(f"{place(path, start)}: this <{tag}> is not closed before the next, in line {number}")
        if opened:
            start, inside, line = number, [], line[opened.end() :]
        if start:
            closed = closing.search(line)
            inside.append(line[: closed.start()] if closed else line)
            if closed:
                yield start, "\n".join(inside)
                start = 0
        elif _TAG.sub("", line).strip():
            raise ValueError(f"{place(path, number)}: expected <{tag}>, found {line[:80]!r}")
    if start:
        raise ValueError(f"{place(path, start)}: this <{tag}> is not closed: is the file truncated?")
