import json
import re

import pytest

from pyterrier_merge.encoding.contract import POOLING_MODES
from pyterrier_merge.encoding.families import FAMILIES, known_family

SEARCH = "Represent this sentence for searching relevant passages: "
INSTRUCT = "Instruct: {task}\nQuery: "

# As the models' cards say it: pooling, normalisation, query prompt, document prompt.
CARDS = {
    "intfloat/e5-small": ("mean", True, "query: ", "passage: "),
    "intfloat/multilingual-e5-base": ("mean", True, "query: ", "passage: "),
    "intfloat/multilingual-e5-large-instruct": ("mean", True, INSTRUCT, ""),
    "intfloat/e5-mistral-7b-instruct": ("lasttoken", True, INSTRUCT, ""),
    "Salesforce/SFR-Embedding-Mistral": ("lasttoken", True, INSTRUCT, ""),
    "Linq-AI-Research/Linq-Embed-Mistral": ("lasttoken", True, INSTRUCT, ""),
    "Qwen/Qwen3-Embedding-0.6B": ("lasttoken", True, "Instruct: {task}\nQuery:", ""),
    "castorini/repllama-v1-7b-lora-passage": ("lasttoken", True, "query: ", "passage: "),
    "BAAI/bge-small-en-v1.5": ("cls", True, SEARCH, ""),
    "BAAI/bge-m3": ("cls", True, "", ""),
    "mixedbread-ai/mxbai-embed-large-v1": ("cls", True, SEARCH, ""),
    "Snowflake/snowflake-arctic-embed-m": ("cls", True, SEARCH, ""),
    "thenlper/gte-base": ("mean", True, "", ""),
    "thenlper/gte-base-zh": ("cls", True, "", ""),
    "Alibaba-NLP/gte-modernbert-base": ("cls", True, "", ""),
    "facebook/contriever": ("mean", False, "", ""),
    "facebook/mcontriever-msmarco": ("mean", False, "", ""),
    "nomic-ai/nomic-embed-text-v1.5": ("mean", True, "search_query: ", "search_document: "),
    "cl-nagoya/ruri-large-v2": ("mean", True, "クエリ: ", "文章: "),
    "cl-nagoya/ruri-v3-310m": ("mean", True, "検索クエリ: ", "検索文書: "),
    "pkshatech/GLuCoSE-base-ja-v2": (None, True, "query: ", "passage: "),
    "sentence-transformers/all-MiniLM-L6-v2": ("mean", True, "", ""),
}


@pytest.mark.parametrize("name", CARDS)
def test_a_family_says_what_the_models_cards_say(name):
    family = known_family(name)
    assert (family.pooling, family.normalize, family.query_prompt, family.document_prompt) == CARDS[name]


def test_chinese_bge_takes_its_instruction_without_a_space():
    prompt = known_family("BAAI/bge-large-zh-v1.5").query_prompt
    assert prompt == "为这个句子生成表示以用于检索相关文章\N{FULLWIDTH COLON}"


def test_families_are_well_formed_and_each_name_is_of_one():
    assert {family.pooling for family in FAMILIES} <= {*POOLING_MODES, None}
    for name in CARDS:
        last = name.partition("/")[2]
        assert sum(re.fullmatch(family.pattern, last, re.IGNORECASE) is not None for family in FAMILIES) == 1


@pytest.mark.parametrize(
    "name",
    [
        "/models/e5-base-v2",
        "models/E5-base-v2/",
        "intfloat/e5-base-v2@v1.0",
        "/home/me/.cache/hub/models--intfloat--e5-base-v2/snapshots/4f2a9b",
        "intfloat/e5-base-v2+me/adapter",
    ],
)
def test_a_copy_is_recognised(name):
    assert known_family(name) == known_family("intfloat/e5-base-v2")


def test_the_adapters_name_counts_before_the_bases():
    adapted = known_family("intfloat/e5-mistral-7b-instruct+castorini/repllama-v1-7b-lora-passage")
    assert adapted.query_prompt == "query: "


@pytest.mark.parametrize(
    "name", ["org/model", "me/e5-base-v2-law", "me/my-bge-m3", "bert-base-uncased", "Alibaba-NLP/gte-Qwen2-7B-instruct"]
)
def test_other_names_are_of_no_family(name):
    assert known_family(name) is None


def test_a_folder_of_any_name_is_known_by_where_it_was_loaded_from(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "intfloat/multilingual-e5-small"}))
    assert known_family("mine", tmp_path).query_prompt == "query: "
    assert known_family("BAAI/bge-m3", tmp_path).pooling == "cls"  # what the user says counts before


def test_a_saved_merge_says_all_itself(tmp_path):
    (tmp_path / "merge.json").write_text("{}")
    assert known_family("e5-base-v2", tmp_path) is None
