import shutil

import pytest
import yaml

from pyterrier_merge import MergedE5Encoder, MergeRecipe
from pyterrier_merge.encoding.saving import model_card


def front_matter(card):
    _, data, body = card.split("---\n", 2)
    return yaml.safe_load(data), body


@pytest.fixture
def parents(bert_retriever, bert_language_model, tmp_path):
    """Copies whose cards a test may write."""
    pairs = (("source", bert_retriever), ("domain", bert_language_model))
    return [shutil.copytree(folder, tmp_path / name) for name, folder in pairs]


def saved_card(parents, folder, **fields):
    recipe = MergeRecipe.halves(*parents, 0.5, 1, **fields)
    return (MergedE5Encoder.from_recipe(recipe, device="cpu", task="t").save(folder) / "README.md").read_text()


def test_the_card_names_no_local_path(parents, tmp_path):
    card = saved_card(parents, tmp_path / "model")
    assert "| `domain` |" in card
    assert "| to domain |" in card
    assert str(tmp_path) not in card


def test_parents_of_one_licence_give_it_to_the_merge(parents, tmp_path):
    for parent in parents:
        (parent / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert front_matter(saved_card(parents, tmp_path / "model"))[0]["license"] == "apache-2.0"


@pytest.mark.parametrize(
    "stated",
    [
        {"license": "other", "license_name": "gemma", "license_link": "https://ai.google.dev/gemma/terms"},
        {"license": ["mit", "apache-2.0"]},
    ],
)
def test_a_licence_stays_in_the_words_of_the_hub(parents, tmp_path, stated):
    for parent in parents:
        (parent / "README.md").write_text(f"---\n{yaml.safe_dump(stated)}---\n")
    data, _ = front_matter(saved_card(parents, tmp_path / "model"))
    assert {key: value for key, value in data.items() if key.startswith("license")} == stated


def test_an_adapters_licence_is_told_with_its_bases(parents, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    source, base = parents
    adapted = get_peft_model(AutoModel.from_pretrained(base), LoraConfig(target_modules=["query"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    for folder in (source, base):
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "adapter" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    for number, domain in enumerate((f"{base}+{tmp_path / 'adapter'}", tmp_path / "adapter")):
        data, body = front_matter(saved_card([source, domain], tmp_path / f"model{number}"))
        assert "license" not in data
        rows = [line for line in body.splitlines() if line.startswith(("| source", "| domain"))]
        assert [row.split("|")[-2].strip() for row in rows] == ["mit", "mit + cc-by-nc-4.0"]
    (tmp_path / "adapter" / "README.md").write_text("---\nlicense: mit\n---\n")
    assert front_matter(saved_card([source, domain], tmp_path / "agreed"))[0]["license"] == "mit"


def test_licences_that_differ_or_are_unknown_are_listed_and_none_is_claimed(parents, tmp_path):
    (parents[0] / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (parents[1] / "README.md").unlink(missing_ok=True)
    data, body = front_matter(saved_card(parents, tmp_path / "model"))
    assert "license" not in data
    rows = [line for line in body.splitlines() if line.startswith(("| source", "| domain"))]
    assert [row.split("|")[-2].strip() for row in rows] == ["apache-2.0", "unknown"]


def test_the_card_tells_the_recipe_and_how_to_load_it(parents, tmp_path):
    data, body = front_matter(saved_card(parents, tmp_path / "mine"))
    assert {"sentence-transformers", "mergekit", "merge", "pyterrier"} <= set(data["tags"])
    assert data["library_name"] == "sentence-transformers"
    assert "base_model" not in data  # local folders are no names of the hub
    assert "SentenceTransformer('mine')" in body
    assert "E5Encoder('mine')" in body
    assert "| layer 0 | 0.5 : 0.5 | 0." in body
    assert "| layer 3 | 1 : 0 | 0.0000 |" in body
    assert "mergekit 0.1." in body
    assert "Method `linear`." in body


def test_models_of_the_hub_are_base_models_with_their_commit(parents, tmp_path, monkeypatch):
    commit = "4f" * 20
    names = {str(parents[0]): f"org/retriever@{commit}", str(parents[1]): f"org/base@{commit}+./adapter"}
    monkeypatch.setattr(model_card, "pinned_name", names.get)
    data, body = front_matter(saved_card(parents, tmp_path / "model"))
    assert data["base_model"] == ["org/retriever", "org/base"]
    assert data["base_model_relation"] == "merge"
    assert body.count(commit) == 2
