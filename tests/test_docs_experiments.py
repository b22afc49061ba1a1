"""The guides to experiments: every YAML block is a valid experiment, a part of one, or systems of the first one."""

import re
from pathlib import Path

import pytest
import yaml

from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.systems import KINDS

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "experiments.md").read_text(encoding="utf-8")
SWEEPS = re.findall(r"^sweep: .*", (DOCS / "choosing.md").read_text(encoding="utf-8"), re.MULTILINE)
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def merge_file(tmp_path, monkeypatch):
    """What the page calls ``merge.yml``; its models are not looked up."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.partition(":")[0])
def test_a_block_is_valid(block, merge_file):
    example, given = yaml.safe_load(BLOCKS[0]), yaml.safe_load(block)
    if "systems" not in given:
        given = {**example, "systems": example["systems"] | given}
    spec = ExperimentSpec.model_validate(given)
    assert ExperimentSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize("line", SWEEPS)
def test_a_sweep_of_the_guide_to_choosing_is_valid(line):
    merge = {"kind": "merged", "source": "source", "domain": "domain", **yaml.safe_load(line)}
    encoder = {"kind": "encoder", "model": "source"}
    systems = {"BM25": {"kind": "bm25"}, "source": encoder, "merge": merge}
    assert ExperimentSpec.model_validate({"name": "x", "collection": "hpo", "systems": systems})


def test_every_kind_is_on_the_page_with_an_example():
    used = set(re.findall(r"kind: (\w+)", "".join(BLOCKS)))
    assert used == set(KINDS)
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(KINDS)
