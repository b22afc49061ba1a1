"""A saved merge on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyterrier_merge.encoding.saving.folder import WEIGHT_PATTERNS


def require_token(repo_id: str, token: str | None = None) -> Any:
    """Return the hub's client after checking that its token is valid.

    Args:
        repo_id: The target repository, ``USER/NAME``.
        token: An access token; that of ``hf auth login`` or ``HF_TOKEN`` when None.

    Raises:
        ValueError: ``repo_id`` is not a name of a repository.
        RuntimeError: There is no token, the hub does not accept it, or the hub could not be reached.
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
    except Exception as error:  # the client does not wrap the errors of its HTTP library
        raise RuntimeError(f"the hub did not accept the token, or could not be reached: {error}") from error
    return api


def upload(api: Any, folder: Path, repo_id: str, *, private: bool = True) -> str:
    """Upload a saved merge, and return the repository's address.

    Weights and adapters in the repository that are not of this merge are deleted in the same commit.

    Args:
        api: The result of :func:`require_token`.
        folder: The saved merge.
        repo_id: The target repository; created if it does not exist.
        private: Whether only its owner can see a new repository; an existing one is not changed.

    Raises:
        RuntimeError: The hub refused.
    """
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message="A merge by pyterrier_merge",
            # loaders would prefer an old whole file to new shards, and an adapter's base to both
            delete_patterns=[*WEIGHT_PATTERNS, "adapter_*"],
        )
    except Exception as error:  # as above
        raise RuntimeError(f"the hub refused the upload to {repo_id}: {error}") from error
    return str(address)
