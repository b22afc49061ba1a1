import json

import pytest
from sentence_transformers import SentenceTransformer
from tokenizers import Regex, pre_tokenizers, processors

from pyterrier_merge.encoding.contract import RetrieverContract


@pytest.fixture
def bert(bert_retriever):
    return SentenceTransformer(str(bert_retriever), device="cpu")


@pytest.fixture
def mistral(mistral_retriever):
    return SentenceTransformer(str(mistral_retriever), device="cpu")


def test_a_bert_retriever_takes_text_bare(bert):
    contract = RetrieverContract.read(bert, "some/model", task="Find things")
    assert contract == RetrieverContract("mean", True, "", "", 32)


def test_a_last_token_retriever_takes_the_papers_prompt_and_gets_its_end_back(mistral):
    contract = RetrieverContract.read(mistral, "some/model", task="Find things")
    assert contract.pooling == "lasttoken"
    assert contract.query_prompt == "Instruct: Find things\nQuery: "
    assert contract.document_prompt == ""
    assert contract.appended == (mistral.tokenizer.eos_token_id,)


def test_another_end_token_than_eos_is_an_end(mistral):
    """Qwen3's tokenizer ends text with <|endoftext|>, its EOS is <|im_end|>."""
    mistral.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <extra>", special_tokens=[("<s>", 1), ("<extra>", 4)]
    )
    assert RetrieverContract.read(mistral, "some/model", task="t").appended == ()


@pytest.mark.parametrize(("around", "appended"), [("$A", (2,)), ("<s> $A", (2,)), ("<s> $A </s>", ())])
def test_a_tokenizer_that_knows_no_letter_of_a_word_gets_its_end_back(mistral, around, appended):
    backend = mistral.tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[a-z ]+"), "removed")
    backend.post_processor = processors.TemplateProcessing(single=around, special_tokens=[("<s>", 1), ("</s>", 2)])
    assert mistral.tokenizer("text", add_special_tokens=False)["input_ids"] == []
    assert RetrieverContract.read(mistral, "some/model", task="t").appended == appended


def test_the_models_own_spacing_of_the_prompt_is_kept(mistral):
    mistral.prompts = {"query": "Instruct: Given a query, find things\nQuery:"}
    assert RetrieverContract.read(mistral, "m", task="Find").query_prompt == "Instruct: Find\nQuery:"


def test_a_mean_pooled_instruct_model_takes_the_task(bert):
    contract = RetrieverContract.read(bert, "intfloat/multilingual-e5-large-instruct", task="Find")
    assert contract.query_prompt == "Instruct: Find\nQuery: "


def test_pooling_without_the_prompt_is_refused(bert):
    bert[1].include_prompt = False
    with pytest.raises(ValueError, match="include_prompt is false"):
        RetrieverContract.read(bert, "m")


def test_roberta_counts_positions_after_its_padding(bert):
    bert.transformers_model.embeddings.position_embeddings.padding_idx = 1
    bert.max_seq_length = 64
    assert RetrieverContract.read(bert, "m").max_length == 62


def test_an_instruction_model_without_a_task_is_warned_about(mistral, caplog):
    assert RetrieverContract.read(mistral, "some/model").query_prompt == ""
    assert "was given no task" in caplog.text


@pytest.mark.parametrize("name", ["intfloat/e5-small-v2", "/models/multilingual-e5-large", "intfloat/e5-base"])
def test_classic_e5_takes_its_two_prefixes(bert, name):
    contract = RetrieverContract.read(bert, name)
    assert (contract.query_prompt, contract.document_prompt) == ("query: ", "passage: ")


def test_prompts_are_read_from_the_model(bert):
    bert.prompts = {"query": "search: ", "document": "text: "}
    contract = RetrieverContract.read(bert, "some/model")
    assert (contract.query_prompt, contract.document_prompt) == ("search: ", "text: ")


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_documents_have_their_prompt_by_any_of_its_names(bert, name):
    bert.prompts = {"query": "search: ", "document": "", name: "text: "}
    assert RetrieverContract.read(bert, "some/model").document_prompt == "text: "


def test_prompts_for_neither_queries_nor_documents_are_warned_about(bert, caplog):
    bert.prompts = {"query": "", "document": "", "s2p": "Represent: "}
    contract = RetrieverContract.read(bert, "some/model")
    assert (contract.query_prompt, contract.document_prompt) == ("", "")
    assert "some/model has prompts named s2p, and none is for queries or documents" in caplog.text
    caplog.clear()
    assert RetrieverContract.read(bert, "some/model", query_prompt="Represent: ").query_prompt == "Represent: "
    assert RetrieverContract.read(bert, "intfloat/e5-small-v2").document_prompt == "passage: "  # its family says
    assert not caplog.text


def test_what_the_caller_gives_wins(mistral):
    contract = RetrieverContract.read(mistral, "m", task="t", query_prompt="q ", document_prompt="d ", max_length=16)
    assert (contract.query_prompt, contract.document_prompt, contract.max_length) == ("q ", "d ", 16)


def test_more_tokens_than_positions_are_refused(bert):
    with pytest.raises(ValueError, match="max_length=65 is more than the 64 positions"):
        RetrieverContract.read(bert, "m", max_length=65)


def test_a_length_without_room_for_text_is_refused(mistral):
    with pytest.raises(ValueError, match="leaves no room for text"):
        RetrieverContract.read(mistral, "m", task="fever pain heart rate", max_length=6)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"add_bos_token": True}, True),
        ({"tokenizer_class": "LlamaTokenizer"}, True),
        ({"tokenizer_class": "CodeLlamaTokenizerFast", "add_bos_token": None}, True),
        ({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False}, False),
        ({"tokenizer_class": "Qwen2Tokenizer"}, False),  # its BOS is there and never used
        ({}, False),
    ],
)
def test_a_start_that_the_files_ask_for_and_the_ids_lack_is_put_back(mistral, settings, wanted, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert RetrieverContract.read(mistral, "m", folder=tmp_path, task="t").prepended == ()  # it is there
    mistral.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    contract = RetrieverContract.read(mistral, "m", folder=tmp_path, task="t")
    assert contract.prepended == ((1,) if wanted else ())
    assert contract.appended == (2,)
    assert contract.added == 1 + wanted
    bare = {"folder": tmp_path, "query_prompt": "", "document_prompt": "a a"}
    assert RetrieverContract.read(mistral, "m", max_length=4 + wanted, **bare).max_length == 4 + wanted
    with pytest.raises(ValueError, match=f"the document prompt and special tokens take {3 + wanted}"):
        RetrieverContract.read(mistral, "m", max_length=3 + wanted, **bare)


def test_prompts_of_the_family_come_after_those_of_the_files(bert):
    assert RetrieverContract.read(bert, "cl-nagoya/ruri-v3-30m").query_prompt == "検索クエリ: "
    assert RetrieverContract.read(bert, "cl-nagoya/ruri-base").document_prompt == "文章: "
    bert.prompts = {"query": "find: "}
    contract = RetrieverContract.read(bert, "cl-nagoya/ruri-v3-30m")
    assert (contract.query_prompt, contract.document_prompt) == ("find: ", "")


def test_a_last_token_family_that_follows_no_instructions_gets_none(mistral, caplog):
    name = "meta-llama/Llama-2-7b-hf+castorini/repllama-v1-7b-lora-passage"
    for task in ("Find", None):
        contract = RetrieverContract.read(mistral, name, task=task)
        assert (contract.query_prompt, contract.document_prompt) == ("query: ", "passage: ")
    mistral.prompts = {"query": "query: ", "document": "passage: "}  # as a saved merge has them
    assert RetrieverContract.read(mistral, "m", task="Find").query_prompt == "query: "
    assert "no task" not in caplog.text


def test_a_family_that_follows_instructions_takes_the_task_or_warns(mistral, caplog):
    assert RetrieverContract.read(mistral, "Qwen/Qwen3-Embedding-0.6B", task="Find").query_prompt == (
        "Instruct: Find\nQuery:"
    )
    assert "no task" not in caplog.text
    assert RetrieverContract.read(mistral, "intfloat/e5-mistral-7b-instruct").query_prompt == ""
    assert "was given no task" in caplog.text


def test_whether_vectors_have_length_one_is_part_of_the_contract(bert):
    del bert[-1]
    assert not RetrieverContract.read(bert, "m").normalize
