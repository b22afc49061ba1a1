"""``python -m pyterrier_merge.cli``."""

from pyterrier_merge.cli import app

app()
