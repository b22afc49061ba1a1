import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects
from sentence_transformers import SentenceTransformer

from pyterrier_merge import MergedE5Encoder
from pyterrier_merge.encoding.saving.publishing import require_token
from pyterrier_merge.storage import cache_folder

OF_OLD = [
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "1_Dense/pytorch_model.bin",
    "adapter_config.json",
    "LICENSE",
]


class StandIn:
    """What is called of ``HfApi``; it looks at the folder while it is there."""

    calls = ()
    deleted = ()

    def __init__(self, token=None):
        StandIn.calls = [("token", token)]

    def whoami(self):
        StandIn.calls.append(("whoami",))

    def create_repo(self, repo_id, *, private, exist_ok):
        StandIn.calls.append(("create", repo_id, private, exist_ok))
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
        model = SentenceTransformer(str(folder_path), device="cpu")
        card = (folder_path / "README.md").read_text()
        StandIn.deleted = list(filter_repo_objects(OF_OLD, allow_patterns=delete_patterns))
        StandIn.calls.append(("upload", repo_id, model.encode("fever", prompt_name="query"), card))


@pytest.fixture
def encoder(bert_retriever, bert_language_model):
    return MergedE5Encoder(
        bert_retriever, bert_language_model, alpha_lower=0.5, alpha_upper=1, dtype="float32", device="cpu"
    )


def test_the_saved_merge_goes_to_the_repository(encoder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", StandIn)
    assert encoder.push_to_hub("me/merged", token="secret") == "https://hub/me/merged"
    *first, (_, repository, vector, card) = StandIn.calls
    assert first == [("token", "secret"), ("whoami",), ("create", "me/merged", True, True)]
    assert repository == "me/merged"
    assert abs(vector - encoder.encode_queries(["fever"])[0]).max() < 1e-6
    assert "E5Encoder('me/merged')" in card
    assert "secret" not in card
    assert list(cache_folder("uploads").iterdir()) == []
    assert StandIn.deleted == OF_OLD[:-1]


def test_without_a_token_nothing_is_computed(encoder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(RuntimeError, match="no token to push to me/merged with: run 'hf auth login'"):
        encoder.push_to_hub("me/merged")


def test_a_name_that_is_no_repository_is_refused(encoder):
    for name in ("me/merged--twice", "me/merged\n", "me/merged-", "a/b/c"):
        with pytest.raises(ValueError, match="epo"):
            require_token(name, "hf_token")
    with pytest.raises(ValueError, match="named 'USER/NAME', found 'merged'"):
        encoder.push_to_hub("merged", token="secret")


@pytest.mark.parametrize(("step", "message"), [("whoami", "did not accept the token"), ("create_repo", "refused")])
def test_a_hub_that_refuses_is_an_error(step, message, encoder, monkeypatch):
    def refuse(*arguments, **settings):
        raise LookupError("403 Forbidden")  # of no class that the client documents

    monkeypatch.setattr(huggingface_hub, "HfApi", StandIn)
    monkeypatch.setattr(StandIn, step, refuse)
    with pytest.raises(RuntimeError, match=message + ".*403 Forbidden"):
        encoder.push_to_hub("me/merged", token="secret")
    assert list(cache_folder("uploads").iterdir()) == []
