"""JQaRA on a few rows with its columns: re-ranked by a real encoder, and everything that can be wrong with a file."""

from __future__ import annotations

import gzip
import json
import logging

import huggingface_hub
import pandas as pd
import pyarrow
import pyterrier as pt
import pytest
from pyarrow import parquet

from pyterrier_merge import E5Encoder
from pyterrier_merge.collections import get_collection
from pyterrier_merge.collections.jqara import HUB_REVISION, jqara
from pyterrier_merge.collections.pool import pooled
from pyterrier_merge.storage import cache_folder

WORDS = ["kidney", "liver", "heart", "fever"]


def rows_of(split, **changes):
    """Three questions with the same four passages; the passage of the question's own word answers it."""
    return [
        {
            "q_id": f"{split}-{question}",
            "question": word,
            "answers": [word],
            "passage_row_id": 100 + passage,
            "title": "high" if passage else None,
            "text": f"{text} failure",
            "label": int(word == text),
            **changes,
        }
        for question, word in enumerate(WORDS[:3])
        for passage, text in enumerate(WORDS)
    ]


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=5)
    return path


def write_jsonl(path, rows, *, newline="\n", encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + newline for row in rows)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture
def folder(tmp_path):
    """As the hub has it: a folder ``data`` with a file for each split, and one more that belongs to none."""
    for split in ("dev", "test", "unused"):
        write_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", rows_of(split))
    return tmp_path


def test_topics_and_judgements(folder):
    collection = jqara(folder)
    assert collection.splits == ("dev", "test")
    assert collection.topics("test").to_dict("list") == {"qid": ["test-0", "test-1", "test-2"], "query": WORDS[:3]}
    qrels = collection.qrels("dev")
    assert list(qrels.columns) == ["qid", "docno", "label"]
    assert len(qrels) == 12
    assert qrels[qrels["label"] == 1].to_records(index=False).tolist() == [
        ("dev-0", "100", 1),
        ("dev-1", "101", 1),
        ("dev-2", "102", 1),
    ]


def test_candidates_are_each_questions_own_passages(folder):
    candidates = jqara(folder).candidates("test")
    assert list(candidates.columns) == ["qid", "query", "docno", "text"]
    assert candidates[candidates["qid"] == "test-1"].to_records(index=False).tolist() == [
        ("test-1", "liver", "100", "kidney failure"),
        ("test-1", "liver", "101", "high liver failure"),
        ("test-1", "liver", "102", "high heart failure"),
        ("test-1", "liver", "103", "high fever failure"),
    ]


def test_documents_are_the_passages_once(folder):
    collection = jqara(folder)
    docs = list(collection.corpus_iter())
    assert len(docs) == collection.num_docs == 4
    assert docs[1] == {"docno": "101", "title": "high", "text": "high liver failure"}


def test_the_papers_texts_have_no_title(folder):
    bare = jqara(folder, title=False)
    assert bare.candidates("test")["text"][1] == "liver failure"
    assert next(bare.corpus_iter())["text"] == "kidney failure"
    assert bare.fingerprint != jqara(folder).fingerprint


def test_an_encoder_ranks_the_candidates_and_an_experiment_measures_it(folder, bert_retriever):
    collection = jqara(folder)
    encoder = E5Encoder(str(bert_retriever), query_prompt="")
    topics, qrels = collection.topics("test"), collection.qrels("test")
    ranked = encoder(collection.candidates("test"))
    assert sorted(ranked[ranked["qid"] == "test-0"]["rank"]) == [0, 1, 2, 3]
    given = pt.Transformer.from_df(collection.candidates("test"))
    table = pt.Experiment([given >> encoder], topics, qrels, list(collection.measures), names=["encoder"])
    assert list(table.columns) == ["name", "nDCG@10", "RR@10"]
    by_hand = []
    candidates = collection.candidates("test")
    for qid, query in topics.itertuples(index=False):
        passages = candidates[candidates["qid"] == qid]
        vectors = encoder.encode_docs(passages["text"].tolist())
        scores = vectors @ encoder.encode_queries([query])[0]
        place = sorted(-scores).index(-scores[passages["docno"].tolist().index(str(100 + WORDS.index(query)))])
        by_hand.append(1 / (place + 1))
    assert table["RR@10"][0] == pytest.approx(sum(by_hand) / 3)


@pytest.mark.parametrize("name", ["test.jsonl", "test-part.jsonl.gz", "jqara_test.jsonl"])
def test_json_lines_give_the_same(folder, tmp_path, name):
    file = write_jsonl(tmp_path / "other" / name, rows_of("test"))
    if name.endswith(".gz"):
        file.write_bytes(gzip.compress(file.read_bytes()))
    of_parquet, of_lines = jqara(folder), jqara(file.parent)
    assert of_lines.splits == ("test",)
    pd.testing.assert_frame_equal(of_lines.candidates("test"), of_parquet.candidates("test"))
    pd.testing.assert_frame_equal(of_lines.qrels("test"), of_parquet.qrels("test"))
    pd.testing.assert_frame_equal(jqara(file).topics("test"), of_parquet.topics("test"))


def test_byte_order_mark_crlf_and_gzip_by_another_name_do_no_harm(tmp_path, folder):
    expected = jqara(folder).candidates("test")
    bom = write_jsonl(tmp_path / "bom.jsonl", rows_of("test"), newline="\r\n", encoding="utf-8-sig")
    pd.testing.assert_frame_equal(jqara(bom).candidates("test"), expected)
    named_plain = tmp_path / "plain.jsonl"
    named_plain.write_bytes(gzip.compress(bom.read_bytes()))
    pd.testing.assert_frame_equal(jqara(named_plain).candidates("test"), expected)


def test_shards_are_read_one_after_the_other(tmp_path):
    rows = rows_of("test")
    for number, part in enumerate((rows[:7], rows[7:])):
        write_parquet(tmp_path / f"test-0000{number}-of-00002.parquet", part)
    assert len(jqara(tmp_path).candidates("test")) == 12


def test_the_cache_is_looked_into_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_jsonl(cache_folder("collections") / "jqara" / "dev.jsonl", rows_of("dev"))
    assert jqara().splits == ("dev",)
    assert len(jqara().topics("dev")) == 3


def test_the_hubs_files_are_read_at_one_revision(tmp_path, monkeypatch):
    """The layout of the hub's cache: refs name a commit, snapshots hold its files."""
    from huggingface_hub import constants

    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    hub = tmp_path / "datasets--hotchpotch--JQaRA"
    for revision in (HUB_REVISION, "0" * 40):
        rows = rows_of("test" if revision == HUB_REVISION else "later")
        write_parquet(hub / "snapshots" / revision / "data" / "test-00000-of-00001.parquet", rows)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0" * 40)
    assert jqara().topics("test")["qid"].tolist() == ["test-0", "test-1", "test-2"]


class ReadTimeoutError(Exception):
    """As the hub's HTTP library has it: neither an OSError nor a ValueError."""


@pytest.mark.parametrize("error", [huggingface_hub.errors.LocalEntryNotFoundError, ReadTimeoutError])
def test_without_the_hub_one_message_says_everything(tmp_path, monkeypatch, error):
    def fails(*args, **options):
        raise error("no network.")

    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **options: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(
        RuntimeError, match=r"jqara: cannot fetch data/test-0.*61\.9 MB.* no network\. Without.*path=FOLDER"
    ) as caught:
        jqara().topics("test")
    assert "https://huggingface.co/datasets/hotchpotch/JQaRA" in str(caught.value)


def test_questions_without_an_answer_and_empty_passages_are_counted_and_kept(tmp_path, caplog):
    rows = rows_of("test")
    rows[0] |= {"label": 0}
    for row in rows:
        row["text"] = row["text"] if row["passage_row_id"] != 103 else " "
    collection = jqara(write_parquet(tmp_path / "test.parquet", rows))
    with caplog.at_level(logging.WARNING):
        assert len(collection.topics("test")) == 3
        collection.qrels("test")
        assert len(list(collection.corpus_iter())) == 4
    assert caplog.messages == [
        "jqara: 1 of the 3 questions of 'test' have no passage with label 1",
        "jqara: 1 of the 4 passages have no text; they are kept",
    ]


def test_a_passage_that_is_two_is_refused_where_it_would_be_one(tmp_path):
    rows = rows_of("test")
    rows[5] |= {"text": "another"}
    collection = jqara(write_parquet(tmp_path / "test.parquet", rows))
    with pytest.raises(ValueError, match=r"passage '101' for question 'test-1' of 'test' has another title"):
        list(collection.corpus_iter())
    assert len(collection.candidates("test")) == 12  # each question has its own there


@pytest.mark.parametrize("write", [write_parquet, write_jsonl])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": 2}, "line 12: the label is 2, expected 0 or 1"),
        ({"label": None}, "line 12: the label is None, expected 0 or 1"),
        ({"q_id": ""}, "line 12: q_id '' is empty"),
        ({"q_id": None}, "line 12: q_id None is a NoneType"),
        ({"q_id": "test-0 "}, "line 12: q_id 'test-0 ' has white space around it"),
        ({"passage_row_id": None}, "line 12: passage_row_id None is a NoneType|passage_row_id nan is a float"),
        ({"passage_row_id": 102}, "line 12: question 'test-2' has passage '102' twice"),
        ({"question": None}, "line 12: question is None, expected a string"),
        ({"question": "else"}, "line 12: question 'test-2' is 'else', but was before 'heart'"),
        ({"text": None}, "line 12: text is None, expected a string"),
    ],
)
def test_refuses_rows(tmp_path, write, changes, message):
    rows = rows_of("test")
    rows[-1] |= changes
    suffix = "parquet" if write is write_parquet else "jsonl"
    collection = jqara(write(tmp_path / f"test.{suffix}", rows))
    with pytest.raises(ValueError, match=message):
        collection.candidates("test")


@pytest.mark.parametrize("write", [write_parquet, write_jsonl])
def test_names_missing_columns(tmp_path, write):
    rows = [{key: value for key, value in row.items() if key not in ("label", "title")} for row in rows_of("test")]
    suffix = "parquet" if write is write_parquet else "jsonl"
    collection = jqara(write(tmp_path / f"test.{suffix}", rows))
    with pytest.raises(ValueError, match=r"columns \['title', 'label'\] are missing; there are \['q_id', 'question'"):
        collection.candidates("test")
    with pytest.raises(ValueError, match=r"columns \['label'\] are missing"):
        collection.qrels("test")


def test_damaged_files_are_named(tmp_path):
    whole = write_parquet(tmp_path / "whole" / "test.parquet", rows_of("test")).read_bytes()
    middle = bytearray(whole)
    middle[30:60] = b"\xff" * 30
    for number, content in enumerate([whole[:-20], whole[: len(whole) // 2], b"", gzip.compress(whole), bytes(middle)]):
        file = tmp_path / f"test{number}.parquet"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"test{number}\.parquet: no parquet file, or truncated or damaged"):
            jqara(file).candidates("test")
    lines = write_jsonl(tmp_path / "lines.jsonl", rows_of("test")).read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(lines[:-30])
    with pytest.raises(ValueError, match=r"cut\.jsonl, line 12: no JSON"):
        jqara(tmp_path / "cut.jsonl").topics("test")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines)[:-30])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz: truncated or damaged"):
        jqara(tmp_path / "cut.jsonl.gz").topics("test")


def test_missing_files_are_named(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"jqara: there is no folder or file .*nowhere"):
        jqara(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has no file such as test-00000-of-00001\.parquet"):
        jqara(tmp_path / "empty")
    (tmp_path / "test.csv").write_text("q_id\n")
    with pytest.raises(ValueError, match=r"test\.csv: expected a file in parquet or jsonl"):
        jqara(tmp_path / "test.csv")
    with pytest.raises(ValueError, match="the split 'test' has no rows"):
        jqara(write_jsonl(tmp_path / "none.jsonl", [])).topics("test")
    with pytest.raises(ValueError, match="jqara has no split 'train'; it has dev, test"):
        jqara(folder).candidates("train")


def test_a_pool_of_it_keeps_the_candidates_of_its_split(folder):
    pool = pooled(jqara(folder), "dev", [], depth=1)
    assert pool.num_docs == 4
    pd.testing.assert_frame_equal(pool.candidates("dev"), jqara(folder).candidates("dev"))
    with pytest.raises(ValueError, match="no split 'test'"):
        pool.candidates("test")


def test_description():
    collection = get_collection("jqara")
    assert [str(measure) for measure in collection.measures] == ["nDCG@10", "RR@10"]
    assert collection.task == "Given a question, retrieve Wikipedia passages that answer the question"
    assert collection.reranking
    assert collection.splits == ("dev", "test")
    assert collection.download_bytes == 101_800_000
