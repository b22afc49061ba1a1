from pathlib import Path

import pandas as pd
import pytest

from pyterrier_merge.fingerprint import fingerprint, fingerprint_file, fingerprint_frame, fingerprint_texts


def test_the_order_of_keys_does_not_matter():
    assert fingerprint({"a": 1, "b": [2, Path("c")]}) == fingerprint({"b": [2, "c"], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_what_has_no_lasting_content_is_refused():
    with pytest.raises(TypeError, match="fingerprint of a object"):
        fingerprint({"a": object()})


def test_texts_are_kept_apart():
    assert fingerprint_texts(["ab"]) != fingerprint_texts(["a", "b"])
    assert fingerprint_texts(iter(["a", "b"])) == fingerprint_texts(["a", "b"])


def test_frames_differ_by_column_row_and_value():
    frame = pd.DataFrame({"qid": ["1"], "query": ["x"]})
    assert fingerprint_frame(frame) == fingerprint_frame(frame.copy())
    assert fingerprint_frame(frame) != fingerprint_frame(frame.assign(query="y"))
    assert fingerprint_frame(frame) != fingerprint_frame(frame.rename(columns={"query": "text"}))


def test_a_file_is_known_by_its_sha256(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert fingerprint_file(tmp_path / "empty") == "e3b0c44298fc1c14"  # SHA-256 of nothing begins so
