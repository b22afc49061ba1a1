import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pyterrier_merge.encoding.saving.tokenizer import save_tokenizer

CORPUS = ["acute kidney failure and the rate of the heart", "pain in the liver, fever; chronic disease"]
BOS = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
BYTES = processors.ByteLevel(trim_offsets=False)


def llama_like():
    """SentencePiece's kind: byte fallback, a sign for blanks."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = BOS
    return tokenizer


def byte_level(processor):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if processor is not None:
        tokenizer.post_processor = processor
    return tokenizer


def loaded(folder, tokenizer, model_type, **config):
    """As transformers loads it beside a model of this type."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "model_max_length": 64, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("model_type", ["mistral", "llama"])
def test_llamas_tokenizer_ends_texts_and_is_read_back(model_type, tmp_path):
    flags = {"add_bos_token": True, "add_eos_token": False, "padding_side": "left", "unk_token": "<unk>"}
    tokenizer = loaded(tmp_path, llama_like(), model_type, tokenizer_class="LlamaTokenizer", **flags)
    texts = ["acute kidney failure", "", " fever é", "the rate of the heart " * 30]
    bare = [tokenizer(text, truncation=True, max_length=15)["input_ids"] for text in texts]
    assert all(ids[0] == 1 and ids[-1] != 2 for ids in bare)
    save_tokenizer(tokenizer, tmp_path, appended=[2])
    for again in (AutoTokenizer.from_pretrained(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        found = again(texts, truncation=True, max_length=16)["input_ids"]
        assert found == [[*ids, 2] for ids in bare]
        assert again("fever", add_special_tokens=False)["input_ids"][-1] != 2
        assert again("acute", "fever")["input_ids"][-1] == 2
        assert (again.padding_side, again.model_max_length) == ("left", 64)
        assert set(again("fever")) == {"input_ids", "attention_mask"}
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize(
    ("processor", "begins"),
    [(BYTES, False), (processors.Sequence([BYTES, BOS]), True), (processors.Sequence([]), False), (None, False)],
)
def test_the_end_goes_into_any_common_post_processor(processor, begins, tmp_path):
    tokenizer = loaded(tmp_path, byte_level(processor), "gpt2", tokenizer_class="PreTrainedTokenizerFast")
    tokenizer.backend_tokenizer.post_processor = byte_level(processor).post_processor  # as it came
    bare = tokenizer("acute fever")["input_ids"]
    assert (bare[0] == 1) is begins
    tokenizer("cut", truncation=True, max_length=2, padding="max_length")  # leaves a mark on the backend
    save_tokenizer(tokenizer, tmp_path, appended=[2])
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("acute fever")["input_ids"] == [*bare, 2]
    assert again("acute fever", truncation=True, max_length=3)["input_ids"][-1] == 2


def test_an_unknown_post_processor_is_refused(tmp_path):
    tokenizer = loaded(tmp_path, llama_like(), "gpt2", tokenizer_class="PreTrainedTokenizerFast")
    tokenizer.backend_tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    with pytest.raises(ValueError, match="BertProcessing, to which '</s>' cannot be appended"):
        save_tokenizer(tokenizer, tmp_path, appended=[2])


def test_a_tokenizer_without_a_file_is_refused(tmp_path):
    class Slow:
        is_fast = False

        def convert_ids_to_tokens(self, ids):
            return ["</s>"]

    with pytest.raises(ValueError, match=r"Slow has no tokenizer\.json"):
        save_tokenizer(Slow(), tmp_path, appended=[2])
