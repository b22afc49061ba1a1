import pytest
from transformers import AutoTokenizer

from pyterrier_merge.encoding.contract import RetrieverContract
from pyterrier_merge.encoding.tokens import tokenise


def contract(max_length=8, **added):
    return RetrieverContract("lasttoken", True, "", "", max_length, **added)


@pytest.fixture(scope="module")
def mistral_tokenizer(mistral_retriever):
    """Puts 1 (BOS) in front and nothing at the end; words are 5 to 24: a, an, the, of, in, and, kidney, liver …"""
    return AutoTokenizer.from_pretrained(mistral_retriever)


@pytest.fixture(scope="module")
def bare_tokenizer(mistral_retriever):
    """Puts nothing around a text."""
    from tokenizers import processors

    tokenizer = AutoTokenizer.from_pretrained(mistral_retriever)
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    return tokenizer


def test_what_the_contract_adds_survives_the_cut(mistral_tokenizer):
    ids, cut = tokenise(mistral_tokenizer, ["a an", "a " * 9], "of ", contract(6, appended=(2,)))
    assert ids == [[1, 8, 5, 6, 2], [1, 8, 5, 5, 5, 2]]
    assert cut == 1


def test_the_start_that_a_tokenizer_lost_is_put_in_front(bare_tokenizer):
    ids, cut = tokenise(bare_tokenizer, ["a an", "a " * 9], "", contract(5, prepended=(1,), appended=(2,)))
    assert ids == [[1, 5, 6, 2], [1, 5, 5, 5, 2]]
    assert cut == 1


def test_a_text_that_just_fits_is_not_cut(mistral_tokenizer):
    assert tokenise(mistral_tokenizer, ["a " * 7, "a " * 8, "a " * 6], "", contract(8))[1] == 1


def test_a_tokenizer_that_does_not_tell_is_asked_again(mistral_tokenizer):
    class InPython:
        """As those that are not written in Rust."""

        eos_token_id = 2

        def __call__(self, *texts, **settings):
            encoded = mistral_tokenizer(*texts, **settings)
            encoded._encodings = None
            return encoded

    texts = ["a " * 7, "a " * 8, "", "an " * 1000]
    assert tokenise(InPython(), texts, "", contract(8)) == tokenise(mistral_tokenizer, texts, "", contract(8))


def test_a_text_without_tokens_is_one_end(bare_tokenizer):
    assert tokenise(bare_tokenizer, ["", "a"], "", contract())[0] == [[2], [5]]
