"""A saved merge on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyterrier_merge.encoding.saving.folder import WEIGHT_PATTERNS


def require_token(repo_id: str, token: str | None = None) -> Any:
    """Return the hub's client, once it is clear that it may write as somebody.

    Args:
        repo_id: Where the model is to go, ``USER/NAME``.
        token: An access token; the one of ``hf auth login`` or ``HF_TOKEN`` when None.

    Raises:
        ValueError: ``repo_id`` is not a name of a repository.
        RuntimeError: There is no token, the hub does not take it, or the hub could not be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    validate_repo_id(repo_id)  # its error is a ValueError that says what is wrong
    if "/" not in repo_id:
        raise ValueError(f"a repository on the hub is named 'USER/NAME', found {repo_id!r}")
    if not (token or get_token()):
        raise RuntimeError(
            f"no token to push to {repo_id} with: run 'hf auth login', or set HF_TOKEN (to one that may write)"
        )
    api = HfApi(token=token)
    try:
        api.whoami()
    except Exception as error:  # the client lets its HTTP library's errors through, whichever that is
        raise RuntimeError(f"the hub did not take the token, or could not be reached: {error}") from error
    return api


def upload(api: Any, folder: Path, repo_id: str, *, private: bool = True) -> str:
    """Upload a saved merge, and return the repository's address.

    Weights and adapters that lie in the repository and are not of this merge are deleted in the same commit.

    Args:
        api: What :func:`require_token` returned.
        folder: The saved merge.
        repo_id: Where to; the repository is made where it is not there yet.
        private: Whether a new repository is seen by its owner alone; one that is there stays as it is.

    Raises:
        RuntimeError: The hub refused.
    """
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message="A merge by pyterrier_merge",
            # a whole file of old would be loaded in the place of new shards, an adapter's base in the place of both
            delete_patterns=[*WEIGHT_PATTERNS, "adapter_*"],
        )
    except Exception as error:  # as above
        raise RuntimeError(f"the hub refused the upload to {repo_id}: {error}") from error
    return str(address)
