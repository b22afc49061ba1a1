import json

import pytest

from pyterrier_merge.training.plot_training import plot_training


@pytest.fixture
def folder(tmp_path):
    rows = ["0,,,,0.25", "1,2.0,10,0.1,", "2,1.5,10,0.1,0.5", "3,1.25,10,0.1,", "4,1.0,10,0.1,0.375"]
    (tmp_path / "training.csv").write_text("\n".join(["step,loss,tokens,seconds,dev", *rows]) + "\n")
    (tmp_path / "training.json").write_text(json.dumps({"dev": "nDCG@10 on dev of hpo", "best_step": 2}))
    return tmp_path


def test_loss_and_measure_are_drawn(folder):
    figure = plot_training(folder, folder / "curve.png")
    loss, measured = figure.axes
    assert loss.get_lines()[0].get_xydata().tolist() == [[1, 2.0], [2, 1.5], [3, 1.25], [4, 1.0]]
    assert measured.get_lines()[0].get_xydata().tolist() == [[0, 0.25], [2, 0.5], [4, 0.375]]
    assert measured.get_ylabel() == "nDCG@10 on dev of hpo"
    assert list(loss.get_lines()[1].get_xdata()) == [2, 2]  # the step that was kept
    assert (folder / "curve.png").stat().st_size > 1000


def test_a_training_that_was_not_measured_has_its_loss_alone(folder):
    (folder / "training.csv").write_text("step,loss,tokens,seconds,dev\n1,2.0,10,0.1,\n2,1.5,10,0.1,\n")
    (folder / "training.json").write_text(json.dumps({"objective": "masked"}))
    (loss,) = plot_training(folder).axes
    assert len(loss.get_lines()) == 1


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a folder of a training: it has no training\.csv"):
        plot_training(tmp_path)
