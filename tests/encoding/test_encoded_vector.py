from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import torch

from pyterrier_merge.encoding.encoded_vector import EncodedVector, encoders_of

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_vector_keeps_its_encoder_through_frames_records_and_processes():
    first, second = EncodedVector.of(NUMBERS, "abc")
    assert np.shares_memory(first, NUMBERS)
    frame = pd.DataFrame({"qid": ["1", "2"], "query_vec": [first, second]})
    ways = (
        frame["query_vec"],
        frame.merge(pd.DataFrame({"docno": ["x", "y"]}), how="cross")["query_vec"],
        pd.concat([frame[1:], frame[:1]])["query_vec"],
        [record["query_vec"] for record in frame.to_dict(orient="records")],
        pickle.loads(pickle.dumps(frame))["query_vec"],
    )
    for vectors in ways:
        assert encoders_of(vectors) == {"abc"}
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(second)), NUMBERS[1])


def test_what_is_computed_is_a_plain_array():
    first, second = EncodedVector.of(NUMBERS, "abc")
    computed = (
        first + second,
        2 * first,
        np.stack([first, second]),
        np.asarray(first),
        np.mean([first, second], axis=0),
    )
    assert {type(array) for array in computed} == {np.ndarray}
    assert type(first @ second) is type(first.sum()) is np.float32
    assert torch.equal(torch.from_numpy(first), torch.tensor([0.0, 1.0, 2.0]))
    assert encoders_of([first[:2], first.copy(), NUMBERS[0], [0.0]]) == {None}
