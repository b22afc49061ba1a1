"""Executors of work items: in this process, or on a Ray cluster."""

from pyterrier_merge.executor.base import Executor, InProcess, LostItemError
from pyterrier_merge.executor.on_ray import OnRay

__all__ = ["Executor", "InProcess", "LostItemError", "OnRay"]
