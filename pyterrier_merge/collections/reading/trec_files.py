"""Reads topics and documents between tags, in the formats of TREC, CLEF, FIRE and LDC, and SMART's files."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from pyterrier_merge.collections.names import squeezed
from pyterrier_merge.collections.reading.files import place, read_lines

TOPIC_TAGS = ("topic", "top", "query")
TEXT_TAGS = ("query", "text", "title", "question")
NUMBER_NAMES = ("number", "num", "id", "identifier", "qid")

_ATTRIBUTES = r"""(?:\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s<>"']+))*\s*"""
_ATTRIBUTE = re.compile(r"""([\w:.-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s<>"']+))""")
_TAG = re.compile(r"<[/!?]?[A-Za-z-][^<>]*>")  # does not match in "p < 0.05 and q > 2"
_DOCNO, _DOCID = (
    re.compile(rf"<{tag}{_ATTRIBUTES}>(.*?)</{tag}\s*>", re.IGNORECASE | re.DOTALL) for tag in ("DOCNO", "DOCID")
)
_TOPIC_FIELD = re.compile(rf"<([\w:-]+){_ATTRIBUTES}>(.*?)(?=</?[\w:-]+{_ATTRIBUTES}>|\Z)", re.DOTALL)
_SMART_SECTION = re.compile(r"^\.([A-Z])(?:\s+(\S+))?\s*$")


def read_xml_topics(path: Path) -> pd.DataFrame:
    """Read topics of the form ``<topics><topic number="1"><disease>...``; ``<top>`` or ``<query>`` are also accepted.

    The number is an attribute or an element with any of ``NUMBER_NAMES``. A topic without elements has its text in
    ``text`` (TREC Clinical Trials). Namespaces are ignored.

    Returns:
        A column ``qid`` and one for each element and attribute that a topic has; missing ones are empty strings.

    Raises:
        ValueError: The file is not such XML, a topic has no number or a text more than once, or there is no topic.
    """
    try:
        root = ElementTree.fromstring("\n".join(line for _, line in read_lines(path)))  # noqa: S314 (expat is safe)
    except ElementTree.ParseError as error:
        raise ValueError(f"{place(path, error.position[0])}: no XML ({error})") from error
    tagged = ([found for found in root.iter() if _local(found.tag) == tag] for tag in TOPIC_TAGS)
    topics = [
        _xml_topic(path, position, topic) for position, topic in enumerate(next(filter(None, tagged), []), start=1)
    ]
    if not topics:
        raise ValueError(f"{path}: there is no <{'>, <'.join(TOPIC_TAGS)}> in <{root.tag}>")
    return pd.DataFrame(topics).fillna("")


def _xml_topic(path: Path, position: int, topic: ElementTree.Element) -> dict[str, str]:
    tags = [_local(field.tag) for field in topic]
    fields = {
        **topic.attrib,
        **{tag: squeezed("".join(field.itertext())) for tag, field in zip(tags, topic, strict=True)},
    }
    if twice := [tag for tag in TEXT_TAGS if tags.count(tag) > 1]:
        raise ValueError(f"{path}: topic {position} has more than one <{twice[0]}>; keep one language per file")
    if len(topic) == 0 and squeezed(topic.text):
        fields["text"] = squeezed(topic.text)
    numbers = [fields.pop(name, "") for name in NUMBER_NAMES]
    qid = next(filter(None, map(str.strip, numbers)), "").removeprefix("Number:").strip()
    if not qid:
        raise ValueError(f"{path}: topic {position} has no number; it has {', '.join(fields) or 'nothing'}")
    return {"qid": qid, **fields}


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def read_trec_topics(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, qid and title of topics of the form ``<top> <num> Number: 301 <title> ... </top>``.

    Tags may have attributes (FIRE's ``<top lang='mr'>``) and a language prefix (CLEF's ``<EN-title>``).
    """
    for number, attributes, block in _blocks(path, "top"):
        fields = [*attributes.items(), *_TOPIC_FIELD.findall(block)]
        nums, titles = (
            [squeezed(html.unescape(text)) for tag, text in fields if _plain(tag) == name] for name in ("num", "title")
        )
        qid = nums[0].removeprefix("Number:").strip() if len(nums) == 1 else ""
        if not qid or len(titles) != 1:
            raise ValueError(
                f"{place(path, number)}: expected a <top> with one <num> and one <title>, found a <top> with "
                f"{', '.join(tag for tag, _ in fields) or 'nothing'}"
            )
        yield number, qid, titles[0].removeprefix("Topic:").strip()


def _plain(tag: str) -> str:
    return re.split("[-:]", tag)[-1].lower()


def read_trec_documents(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line and document of ``<DOC> <DOCNO>1</DOCNO> ... </DOC>``: all text except the docno, in order.

    Without ``<DOCNO>`` the docno is the attribute ``id`` of the tag (LDC's ``<DOC id="1" type="story">``) or
    ``<DOCID>``.
    """
    for number, attributes, block in _blocks(path, "DOC"):
        docno = attributes.get("id", "")
        element = _DOCNO.search(block) or (None if docno else _DOCID.search(block))
        if element:
            docno, block = element.group(1).strip(), block[: element.start()] + block[element.end() :]
        elif not docno:
            raise ValueError(
                f"{place(path, number)}: a <DOC> without <DOCNO>, <DOCID> and an attribute id; its attributes are "
                f"{attributes}"
            )
        yield number, {"docno": docno, "text": squeezed(html.unescape(_TAG.sub(" ", block)))}


def read_smart(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line and document of ``.I 1``, then sections; ``.T`` (title) and ``.W`` (words) are read.

    A last ``.I`` with nothing after it is skipped: MED ends in one.
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


def _blocks(path: Path, tag: str) -> Iterator[tuple[int, dict[str, str], str]]:
    """Yield the first line's number, the attributes (lower case) and the content of each ``<tag> ... </tag>``.

    Lines outside may only have a tag.
    """
    opening = re.compile(f"<{tag}({_ATTRIBUTES})>", re.IGNORECASE)
    closing = re.compile(rf"</{tag}\s*>", re.IGNORECASE)
    start, attributes, inside, outside = 0, dict[str, str](), list[str](), ""
    for number, line in read_lines(path):
        opened = opening.search(line)
        if opened and start:
            raise ValueError(f"{place(path, start)}: this <{tag}> is not closed before the next, in line {number}")
        if opened:
            start, attributes, inside, line = number, _attributes(opened.group(1)), [], line[opened.end() :]
        if start:
            closed = closing.search(line)
            inside.append(line[: closed.start()] if closed else line)
            if closed:
                yield start, attributes, "\n".join(inside)
                start, outside = 0, ""
        elif _TAG.sub("", line).strip():
            raise ValueError(f"{place(path, number)}: expected <{tag}>, found {line[:80]!r}{outside}")
        elif line.strip():
            outside = f", after {line[:80]!r} in line {number}"
    if start:
        raise ValueError(f"{place(path, start)}: this <{tag}> is not closed: is the file truncated?")


def _attributes(text: str) -> dict[str, str]:
    return {name.lower(): "".join(values).strip() for name, *values in _ATTRIBUTE.findall(text)}
