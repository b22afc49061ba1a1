"""Locating a model's files by its name, reading these files, and inspecting live models."""

from pyterrier_merge.models.files import (
    WEIGHT_FILES,
    count_layers,
    fingerprint_model,
    projection_folders,
    read_config,
    transformer_folder,
)
from pyterrier_merge.models.live import count_positions, quiet_loading
from pyterrier_merge.models.names import (
    PACKAGE_SCHEME,
    ModelParts,
    locate_model,
    locate_parts,
    pinned_name,
    places,
    public_name,
    short_name,
    training_reports,
)

__all__ = [
    "PACKAGE_SCHEME",
    "WEIGHT_FILES",
    "ModelParts",
    "count_layers",
    "count_positions",
    "fingerprint_model",
    "locate_model",
    "locate_parts",
    "pinned_name",
    "places",
    "projection_folders",
    "public_name",
    "quiet_loading",
    "read_config",
    "short_name",
    "training_reports",
    "transformer_folder",
]
