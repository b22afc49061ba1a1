"""Single files of datasets on the Hugging Face hub, from its cache or downloaded into it."""

from __future__ import annotations

from pathlib import Path

from pyterrier_merge.collections.reading.consent import require_consent


def hub_file(
    dataset: str,
    file: str,
    *,
    name: str,
    revision: str | None = None,
    size: str = "",
    large: bool = False,
    download: bool = False,
) -> Path:
    """Return the path of a file of a dataset; download it first if the hub's cache does not hold it.

    The hub's client resumes interrupted downloads and checks the size of every file.

    Args:
        dataset: The dataset: ``mpkato/ntcir_data_search``.
        file: The file's name in it.
        name: The collection, for messages.
        revision: The commit to read; the newest when None.
        size: The file's size, for messages: "61.9 MB".
        large: Whether the download needs the user's consent.
        download: Whether the user has consented.

    Raises:
        RuntimeError: It is large and the user has not consented, or the download failed.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.constants import HF_HUB_CACHE

    url = f"https://huggingface.co/datasets/{dataset}"
    if cached := in_hub_cache(dataset, file, revision):
        return cached
    if large:
        require_consent(
            name,
            said=download,
            what=file,
            size=size or f"its size is shown at {url}/tree/main;",
            source=url,
            place=HF_HUB_CACHE,
        )
    described = f"{file} ({size})" if size else file
    try:
        return Path(hf_hub_download(dataset, file, repo_type="dataset", revision=revision))
    except Exception as error:  # the client does not wrap its HTTP library's errors
        reason = str(error).rstrip(".") or type(error).__name__
        raise RuntimeError(
            f"{name}: cannot fetch {described} from {url}: {reason}. Without a network, download it elsewhere into a "
            f"folder and use get_collection({name!r}, path=FOLDER)"
        ) from error


def in_hub_cache(dataset: str, file: str, revision: str | None = None) -> Path | None:
    """Return the path of a dataset's file in the hub's cache, without a request to the hub; None if it is missing."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(dataset, file, repo_type="dataset", revision=revision)
    return Path(cached) if isinstance(cached, str) else None
