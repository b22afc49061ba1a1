import shutil

import pytest
import yaml

from pyterrier_merge import MergedE5Encoder, MergeRecipe
from pyterrier_merge.encoding.saving import model_card
from pyterrier_merge.encoding.saving.model_card import read_licence


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


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (None, "unknown"),
        ("no front matter", "unknown"),
        ("---\nlicense: mit\n---\ntext", "mit"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\ntags: [a]\n---\n", "unknown"),
        ("---\n- a list\n---\n", "unknown"),
        ("---\nlicense: [broken\n---\n", "unknown"),
    ],
)
def test_a_licence_is_what_the_card_states(card, licence, tmp_path):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert read_licence(tmp_path) == licence


def test_parents_of_one_licence_give_it_to_the_merge(parents, tmp_path):
    for parent in parents:
        (parent / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert front_matter(saved_card(parents, tmp_path / "model"))[0]["license"] == "apache-2.0"


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
