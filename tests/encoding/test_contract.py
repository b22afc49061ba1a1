import pytest
from sentence_transformers import SentenceTransformer

from pyterrier_merge.encoding.contract import RetrieverContract


@pytest.fixture
def bert(bert_retriever):
    return SentenceTransformer(str(bert_retriever), device="cpu")


@pytest.fixture
def mistral(mistral_retriever):
    return SentenceTransformer(str(mistral_retriever), device="cpu")


def test_a_bert_retriever_takes_text_bare(bert):
    contract = RetrieverContract.read(bert, "some/model", task="Find things")
    assert contract == RetrieverContract("mean", "", "", 32)


def test_a_last_token_retriever_takes_the_papers_prompt_and_gets_its_end_back(mistral):
    contract = RetrieverContract.read(mistral, "some/model", task="Find things")
    assert contract.pooling == "lasttoken"
    assert contract.query_prompt == "Instruct: Find things\nQuery: "
    assert contract.document_prompt == ""
    assert contract.appended == (mistral.tokenizer.eos_token_id,)


def test_another_end_token_than_eos_is_an_end(mistral):
    """Qwen3's tokenizer ends text with <|endoftext|>, its EOS is <|im_end|>."""
    from tokenizers import processors

    mistral.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <extra>", special_tokens=[("<s>", 1), ("<extra>", 4)]
    )
    assert RetrieverContract.read(mistral, "some/model", task="t").appended == ()


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


def test_what_the_caller_gives_wins(mistral):
    contract = RetrieverContract.read(mistral, "m", task="t", query_prompt="q ", document_prompt="d ", max_length=16)
    assert (contract.query_prompt, contract.document_prompt, contract.max_length) == ("q ", "d ", 16)


def test_more_tokens_than_positions_are_refused(bert):
    with pytest.raises(ValueError, match="max_length=65 is more than the 64 positions"):
        RetrieverContract.read(bert, "m", max_length=65)


def test_a_length_without_room_for_text_is_refused(mistral):
    with pytest.raises(ValueError, match="leaves no room for text"):
        RetrieverContract.read(mistral, "m", task="fever pain heart rate", max_length=6)
