"""What tests may use: tiny models in the layouts of real ones, the shared data, and a cache that is thrown away."""

import dataclasses
import json
import os
import random
import shutil
import subprocess
import tempfile
import types
from pathlib import Path

# ir_datasets reads it once, when it is imported, and other libraries import ir_datasets.
os.environ["IR_DATASETS_HOME"] = tempfile.mkdtemp(prefix="ir_datasets-")

import torch

if not torch.cuda.is_available():  # kernels are run step by step; read when Triton is imported, by other libraries too
    os.environ["TRITON_INTERPRET"] = "1"

import pandas as pd
import pyterrier as pt
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    MistralConfig,
    MistralForCausalLM,
    MistralModel,
    PreTrainedTokenizerFast,
)

pt.documentation._cached_objects_inv = {}  # schematics look documentation up in the network otherwise
os.environ["PT_TEST_TRANSFORMER_REPORTS"] = "0"

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WORDS = [
    "a",
    "an",
    "the",
    "of",
    "in",
    "and",
    "kidney",
    "liver",
    "failure",
    "acute",
    "chronic",
    "disease",
    "renal",
    "hepatic",
    "fever",
    "pain",
    "heart",
    "rate",
    "high",
    "low",
]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["PYTERRIER_MERGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def words() -> list[str]:
    """All that the tiny models' tokenizers know."""
    return WORDS


@pytest.fixture(scope="session")
def shared() -> Path:
    """Third-party data that the project does not carry."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the data folder {SHARED.parent.name}/{SHARED.name} beside the project")
    return SHARED


@pytest.fixture
def disk(tmp_path_factory):
    """A disk of its own at ``disk.folder``, whose size in bytes ``disk.resize(n)`` sets."""
    folder, mount, umount = tmp_path_factory.mktemp("disk"), shutil.which("mount"), shutil.which("umount")

    def resize(size: int) -> None:
        subprocess.run([mount, "-o", f"remount,size={size}", folder], check=True)

    begin = [mount, "-t", "tmpfs", "tmpfs", folder]
    if not mount or subprocess.run(begin, capture_output=True, check=False).returncode:
        pytest.skip("a small disk is mounted by root alone")
    yield types.SimpleNamespace(folder=folder, resize=resize)
    subprocess.run([umount, "--lazy", folder], check=True)


@pytest.fixture(scope="session")
def irds_home():
    """The folder that ir_datasets reads and writes in this run; empty at first."""
    home = Path(os.environ["IR_DATASETS_HOME"])
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def scifact_home(shared: Path, irds_home: Path) -> Path:
    """``irds_home`` with SciFact in it."""
    shutil.copytree(shared / "ir_datasets", irds_home, dirs_exist_ok=True)
    return irds_home


@pytest.fixture(scope="session")
def bert_retriever(tmp_path_factory) -> Path:
    """A BERT with mean pooling, as sentence-transformers saves one (``BertModel``: names without a prefix)."""
    torch.manual_seed(0)
    return _save_retriever(
        tmp_path_factory.mktemp("bert-retriever"), BertModel(_bert_config()), _bert_tokenizer(), "mean"
    )


@pytest.fixture(scope="session")
def bert_retriever_of_old(bert_retriever, tmp_path_factory) -> Path:
    """The same retriever as older sentence-transformers wrote it: the transformer in ``0_Transformer``."""
    folder = shutil.copytree(bert_retriever, tmp_path_factory.mktemp("bert-retriever-of-old") / "model")
    (folder / "0_Transformer").mkdir()
    for file in [file for file in folder.iterdir() if file.is_file() and file.name != "modules.json"]:
        shutil.move(file, folder / "0_Transformer")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


@pytest.fixture(scope="session")
def bert_language_model(tmp_path_factory) -> Path:
    """A BERT with a language-model head (``BertForMaskedLM``: names begin with ``bert.``)."""
    torch.manual_seed(1)
    return _save(tmp_path_factory.mktemp("bert-lm"), BertForMaskedLM(_bert_config()), _bert_tokenizer())


@pytest.fixture(scope="session")
def mistral_retriever(tmp_path_factory) -> Path:
    """A Mistral with last-token pooling, laid out as e5-mistral-7b-instruct (``MistralModel``: no prefix, no head)."""
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("mistral-retriever")
    return _save_retriever(folder, MistralModel(_mistral_config()), _mistral_tokenizer(), "lasttoken")


@pytest.fixture(scope="session")
def mistral_language_model(tmp_path_factory) -> Path:
    """A Mistral laid out as BioMistral-7B (``MistralForCausalLM``: names begin with ``model.``, with a head)."""
    torch.manual_seed(3)
    return _save(tmp_path_factory.mktemp("mistral-lm"), MistralForCausalLM(_mistral_config()), _mistral_tokenizer())


def _bert_config(layers: int = 4) -> BertConfig:
    return BertConfig(
        vocab_size=len(WORDS) + 5,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )


def _mistral_config() -> MistralConfig:
    return MistralConfig(
        vocab_size=len(WORDS) + 5,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        sliding_window=None,
        initializer_range=0.3,
    )


def _bert_tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = _word_level(special, "[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, special, strict=True)))


def _mistral_tokenizer() -> PreTrainedTokenizerFast:
    """Puts BOS in front and, like Mistral's own on transformers 5, no EOS at the end."""
    tokenizer = _word_level(["<unk>", "<s>", "</s>", "<pad>", "<extra>"], "<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _word_level(special: list[str], unknown: str) -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _save(folder: Path, model, tokenizer) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _save_retriever(folder: Path, model, tokenizer, pooling: str) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(_save(folder / "plain", model, tokenizer)), max_seq_length=32)
    pooled = Pooling(model.config.hidden_size, pooling_mode=pooling)
    SentenceTransformer(modules=[transformer, pooled, Normalize()], device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="session")
def small_collection():
    """Thirty documents of a few words, and queries that share words with them; two splits."""
    from pyterrier_merge.collections import from_frames

    generator = random.Random(0)
    docs = [{"docno": f"d{number}", "text": " ".join(generator.sample(WORDS, 6))} for number in range(30)]
    topics, qrels = {}, {}
    for split, some in (("dev", docs[:10]), ("test", docs[10:25])):
        rows = [(f"{split}-{doc['docno']}", " ".join(doc["text"].split()[:3]), doc["docno"], 1) for doc in some]
        frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "label"])
        topics[split], qrels[split] = frame[["qid", "query"]], frame[["qid", "docno", "label"]]
    return from_frames("small", docs, topics, qrels)


@pytest.fixture(scope="session")
def reranking_collection(small_collection, tmp_path_factory):
    """The small collection's documents and queries, each query with eight documents to rank, as JQaRA has them."""
    from pyterrier_merge.collections.jqara import jqara

    generator = random.Random(1)
    folder = tmp_path_factory.mktemp("jqara")
    texts = {doc["docno"]: doc["text"] for doc in small_collection.corpus_iter()}
    for split in ("dev", "test"):
        lines = []
        judged = small_collection.topics(split).merge(small_collection.qrels(split), on="qid")
        for row in judged.itertuples():
            others = generator.sample(sorted(texts.keys() - {row.docno}), 7)
            for docno in sorted([row.docno, *others]):
                passage = {"passage_row_id": docno, "title": "", "text": texts[docno], "label": int(docno == row.docno)}
                lines.append(json.dumps({"q_id": row.qid, "question": row.query, **passage}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return dataclasses.replace(jqara(folder), name="small-jqara", language="en")
