import pytest
import torch
from transformers import AutoModel, Gemma3Config, Gemma3Model, LlamaConfig, LlamaModel

from pyterrier_merge.encoding.causality import looks_back


def test_a_decoder_looks_back_and_an_encoder_does_not(mistral_retriever, bert_retriever):
    assert looks_back(AutoModel.from_pretrained(mistral_retriever))
    assert not looks_back(AutoModel.from_pretrained(bert_retriever))


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return LlamaModel(
        LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    ).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_type_does_not_matter(llama, dtype):
    assert looks_back(llama.to(dtype))


def test_a_decoder_that_was_made_to_look_both_ways_is_none(llama, monkeypatch):
    real = LlamaModel.forward

    def both_ways(self, input_ids, **settings):
        tokens = input_ids.shape[1]
        return real(self, input_ids, attention_mask=torch.zeros(1, 1, tokens, tokens), **settings)

    monkeypatch.setattr(LlamaModel, "forward", both_ways)
    assert all(layer.self_attn.is_causal for layer in llama.layers)
    assert not looks_back(llama)


def test_a_model_of_texts_and_pictures_is_tried_too():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": 50, **sizes, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
    vision = {**sizes, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, image_token_index=49, mm_tokens_per_image=4)
    assert not hasattr(config, "vocab_size")
    assert looks_back(Gemma3Model(config).eval())


def test_a_model_that_tells_no_two_texts_apart_proves_nothing(llama):
    with torch.no_grad():
        llama.embed_tokens.weight.fill_(1)
    assert not looks_back(llama)
