"""A tiny twin of every collection of the experiments, in the layout in which the real one is published."""

import itertools
import random
from types import SimpleNamespace

import published
import pytest

WORDS = ["kidney", "liver", "failure", "acute", "chronic", "disease", "renal", "hepatic", "fever", "pain", "heart"]
SPLITS = {"train": range(4), "dev": range(4, 8), "test": range(8, 14)}  # documents that a split's queries are made from


def _corpus() -> list[tuple[str, str]]:
    """Title and text of 24 documents; no two texts are the same, for queries are made from them."""
    generator = random.Random(0)
    texts = generator.sample(list(itertools.combinations(WORDS, 3)), 24)
    return [(" ".join(generator.sample(WORDS, 2)), " ".join(text)) for text in texts]


CORPUS = _corpus()


def queries(split: str) -> dict[int, str]:
    """Number of the relevant document -> its text."""
    return {number: CORPUS[number][1] for number in SPLITS[split]}


def judgements(split: str, qid, docno) -> list[tuple[str, str, int]]:
    """A relevant document for each query, and one that is not."""
    return [(qid(n), docno(d), label) for n in SPLITS[split] for d, label in ((n, 1), (n + 1, 0))]


def write_beir(home, name):
    further = {"metadata": {"url": "http://u"}}
    docs = [{"_id": f"MED-{n}", "title": title, "text": text, **further} for n, (title, text) in enumerate(CORPUS)]
    splits = ("train", "test") if name == "scifact" else ("train", "dev", "test")
    asked = {n: text for split in splits for n, text in queries(split).items()}
    qrels = {split: judgements(split, "PLAIN-{}".format, "MED-{}".format) for split in splits}
    if name == "scifact":  # a fifth of the training queries is dev
        asked |= {n: CORPUS[n][1] for n in range(14, 24)}
        qrels["train"] += [(f"PLAIN-{n}", f"MED-{n}", 1) for n in range(14, 24)]
    lines = [{"_id": f"PLAIN-{n}", "text": text, **further} for n, text in asked.items()]
    published.write_beir(home, name, docs, lines, qrels)


def write_pmc(home, changed):
    for version, number in itertools.product(("v1", "v2"), range(4)):
        own = {str(n): {"title": title, "abstract": text} for n, (title, text) in enumerate(CORPUS) if n % 4 == number}
        published.put(changed, home, "pmc", f"{version}/source{number}", published.articles(own))
    for number in (1, 2):
        published.put(changed, home, "pmc", f"v1/dup{number}", b"")
    for year, split in ((2014, "test"), (2015, "dev"), (2016, "train")):
        topics = [
            {"qid": str(place), "description": text, "summary": text, **({"note": text} if year == 2016 else {})}
            for place, text in enumerate(queries(split).values(), 1)
        ]
        places = {number: str(place) for place, number in enumerate(SPLITS[split], 1)}
        put_text = {
            "queries": published.cds_topics(year, topics),
            "qrels": published.trec_qrels(judgements(split, places.__getitem__, str)),
        }
        for kind, text in put_text.items():
            published.put(changed, home, "pmc", f"trec-cds-{year}/{kind}", text.encode())


def write_medline(home, changed):
    docs = {str(10_000_000 + n): {"title": title, "abstract": text} for n, (title, text) in enumerate(CORPUS)}
    named = list(docs.items())
    published.put(changed, home, "medline", "2017/aacr_asco_extra", published.conference(dict(named[:2])))
    for number in range(1, 6):
        part = dict(named[2 + number - 1 :: 5])
        published.put(changed, home, "medline", f"2017/part{number}", published.citations(part))
    for year, split in ((2017, "test"), (2018, "dev")):
        topics = [
            {
                "qid": str(n),
                "disease": text,
                "gene": "None",
                "demographic": "acute",
                **({"other": "None"} if year == 2017 else {}),
            }
            for n, text in queries(split).items()
        ]
        rows = judgements(split, str, lambda n: str(10_000_000 + n))
        published.put(changed, home, "medline", f"trec-pm-{year}/queries", published.pm_topics(topics).encode())
        published.put(changed, home, "medline", f"trec-pm-{year}/qrels", published.trec_qrels(rows).encode())


def write_miracl(home):
    docs = [{"docid": f"{n}#0", "title": title, "text": f"{text} 京都"} for n, (title, text) in enumerate(CORPUS)]
    splits = {"train": "train", "dev": "test"}  # MIRACL's dev set is the split "test"
    topics = {theirs: {str(n): text for n, text in queries(ours).items()} for theirs, ours in splits.items()}
    qrels = {theirs: judgements(ours, str, "{}#0".format) for theirs, ours in splits.items()}
    published.write_miracl(home, docs, topics, qrels)


def write_ntcir(folder, letter):
    entries = [
        {"id": f"{n:012}", "title": title, "description": text, "data_fields": {"x": "acute"}, "data": []}
        for n, (title, text) in enumerate(CORPUS)
    ]
    splits = ("train", "test")
    topics = {split: {f"DS1-{n:04}": text for n, text in queries(split).items()} for split in splits}
    qrels = {split: judgements(split, "DS1-{:04}".format, "{:012}".format) for split in splits}
    published.write_ntcir(folder, letter, entries, topics, qrels)


def write_jqara(folder):
    rows = {
        split: [
            {
                "q_id": f"{split}-{n}",
                "question": text,
                "passage_row_id": d,
                "title": CORPUS[d][0],
                "text": CORPUS[d][1],
                "label": int(d == n),
            }
            for n, text in queries(split).items()
            for d in range(n - 3, n + 3)
        ]
        for split in ("dev", "test")
    }
    published.write_jqara(folder, rows)


@pytest.fixture(scope="module")
def published_collections(tmp_path_factory):
    """All collections of the experiments are tiny; ir_datasets, the hub and the cache have homes of their own.

    ir_datasets reads where its home is when it is imported, so its collections are registered anew.
    """
    import ir_datasets
    from ir_datasets.datasets import beir, medline, miracl, pmc

    from pyterrier_merge import collections
    from pyterrier_merge.collections import hpo

    home, cache, hub = (tmp_path_factory.mktemp(name) for name in ("ir_datasets", "cache", "hub"))
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("IR_DATASETS_HOME", str(home))
        changed.setenv("PYTERRIER_MERGE_CACHE", str(cache))
        changed.setenv("PYTERRIER_MERGE_DOWNLOAD", "1")
        changed.setattr(ir_datasets, "registry", ir_datasets.util.Registry())
        changed.setattr(collections, "_made", {})
        for name in ("nfcorpus", "scifact"):
            write_beir(home, name)
        write_pmc(home, changed)
        write_medline(home, changed)
        write_miracl(home)
        for data in (beir, medline, miracl, pmc):
            data._init()
        write_jqara(cache / "collections" / "jqara")
        for letter in "je":
            write_ntcir(hub, letter)
        changed.setattr("huggingface_hub.hf_hub_download", lambda _dataset, file, **_: str(hub / file))
        terms = [
            {"id": f"HP:{n:07}", "name": title, "definition": text, "lay": text}
            for n, (title, text) in enumerate(CORPUS)
        ]
        (hub / "hp.obo").write_text(published.obo(terms))
        changed.setattr(hpo, "_obo_file", lambda: hub / "hp.obo")
        changed.setattr(hpo, "TEST_QUERIES", 6)
        changed.setattr(hpo, "DEV_QUERIES", 4)
        for cached in (hpo._ontology, hpo._splits):
            cached.cache_clear()
        yield SimpleNamespace(home=home, cache=cache)
    for cached in (hpo._ontology, hpo._splits):
        cached.cache_clear()
