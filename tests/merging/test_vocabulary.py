import json
import shutil

import pytest

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.compatibility import check_compatible
from pyterrier_merge.merging.vocabulary import compare_vocabularies
from pyterrier_merge.models.vocabulary import read_vocabulary


def with_tokens(folder, target, change):
    """A copy of a model whose tokenizer's vocabulary went through ``change(vocabulary)``, in place."""
    shutil.copytree(folder, target)
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    change(tokenizer["model"]["vocab"])
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    return target


def swap(vocabulary):
    vocabulary["kidney"], vocabulary["liver"] = vocabulary["liver"], vocabulary["kidney"]


def without_tokenizer(folder, target):
    shutil.copytree(folder, target)
    for file in target.glob("*token*"):
        file.unlink()
    return target


def test_the_vocabulary_is_the_tokenizers_own(bert_language_model):
    read = read_vocabulary(bert_language_model)
    assert len(read.ids) == 25
    assert read.ids["a"] == 5
    assert read.special == {
        "pad": ("[PAD]", 0),
        "unk": ("[UNK]", 1),
        "cls": ("[CLS]", 2),
        "sep": ("[SEP]", 3),
        "mask": ("[MASK]", 4),
    }


def test_equal_vocabularies_agree(bert_retriever, bert_language_model):
    report = check_compatible(Checkpoint(bert_retriever), Checkpoint(bert_language_model))
    assert report.vocabulary.agree is True
    assert report.vocabulary.same == 25
    assert "25 tokens in both, the same ids" in str(report.vocabulary)
    report.require_vocabulary()


def test_tokens_with_other_ids_are_counted_and_named(bert_retriever, bert_language_model, tmp_path):
    folder = with_tokens(bert_language_model, tmp_path / "swapped", swap)
    report = check_compatible(Checkpoint(bert_retriever), Checkpoint(folder))
    found = report.vocabulary
    assert (found.agree, found.same, found.moved) == (False, 23, ("kidney", "liver"))
    with pytest.raises(ValueError, match=r"23 agree, 2 with another id \('kidney', 'liver'\)\nleave `embeddings` at 1"):
        report.require_vocabulary()
    assert any("the body alone is merged" in note for note in report.to_dict(distances=False)["notes"])
    assert report.verdict(distances=False).mergeable
    assert "embeddings" not in [distance.place for distance in report.distances]


def test_tokens_of_one_model_alone_are_named(bert_retriever, bert_language_model, tmp_path):
    def rename(vocabulary):
        vocabulary["nephron"] = vocabulary.pop("kidney")

    folder = with_tokens(bert_language_model, tmp_path / "renamed", rename)
    found = compare_vocabularies(Checkpoint(bert_retriever), Checkpoint(folder))
    assert (found.only_source, found.only_domain, found.same) == (("kidney",), ("nephron",), 24)
    assert found.to_dict()["only_domain"] == {"count": 1, "examples": ["nephron"]}


def test_another_size_is_refused_for_embeddings(bert_retriever, bert_language_model, tmp_path):
    folder = with_tokens(bert_language_model, tmp_path / "more", lambda vocabulary: vocabulary.update(extra=25))
    report = check_compatible(Checkpoint(bert_retriever), Checkpoint(folder))
    with pytest.raises(ValueError, match=r"25 tokens \(source\), 26 \(domain\); 25 agree, 1 only in the domain model"):
        report.require_vocabulary()


def test_matrices_of_another_shape_are_refused_for_embeddings(bert_retriever, bert_language_model, tmp_path):
    from transformers import BertForMaskedLM

    folder = tmp_path / "longer"
    shutil.copytree(bert_language_model, folder)
    model = BertForMaskedLM.from_pretrained(bert_language_model)
    model.resize_token_embeddings(32)
    model.save_pretrained(folder)
    report = check_compatible(Checkpoint(bert_retriever), Checkpoint(folder))
    assert report.vocabulary.agree
    assert not report.problems
    with pytest.raises(
        ValueError, match=r"word_embeddings\.weight' is \(25, 32\) in the source, \(32, 32\) in the dom"
    ):
        report.require_vocabulary()


def test_without_a_tokenizer_sizes_are_all_that_is_known(bert_retriever, bert_language_model, tmp_path):
    """transformers would make a tokenizer of five tokens from nothing."""
    folder = without_tokenizer(bert_language_model, tmp_path / "bare")
    report = check_compatible(Checkpoint(bert_retriever), Checkpoint(folder))
    assert report.vocabulary.agree is None
    assert report.vocabulary.sizes == (25, 25)
    assert "by vocab_size alone" in str(report.vocabulary)
    with pytest.raises(ValueError, match=r"no tokenizer in .*bare"):
        report.require_vocabulary()


def test_a_damaged_tokenizer_does_not_keep_the_body_from_being_merged(bert_retriever, bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "damaged")
    (folder / "tokenizer.json").write_text("{")
    report = check_compatible(Checkpoint(bert_retriever), Checkpoint(folder))
    assert "cannot be read" in report.vocabulary.unread[0]
    assert report.verdict().mergeable


def test_special_tokens_stand_side_by_side(mistral_retriever, mistral_language_model, tmp_path):
    folder = shutil.copytree(mistral_language_model, tmp_path / "padded")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "</s>"}))
    found = compare_vocabularies(Checkpoint(mistral_retriever), Checkpoint(folder))
    assert found.special["pad"] == (("<pad>", 3), ("</s>", 2))
    assert found.special["eos"] == (("</s>", 2), ("</s>", 2))
    assert "cls" not in found.special
