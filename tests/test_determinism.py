"""SEED and DETERMINISTIC: the same bits again on the same machine and stack, whatever is switched on; else others."""
import numpy as np
import pytest

import train_cifar10
from vision_transformer.runs import Run

FLAGS = ["--epochs", "2", "--batch-size", "24", "--validation-share", "0.2", "--deterministic"]
VIT = ["--number-of-layers", "2", "--embedding-dim", "8", "--num-heads", "2", "--mlp-hidden-dim", "12"]
SETTINGS = {
    "default": [*VIT, "--patch-size", "8", "--patch-stride", "8"],
    "pictures": [*VIT, "--patch-size", "8", "--patch-stride", "8", "--rotation", "15", "--shear", "5", "--zoom", "0.1",
                 "--hue", "0.1", "--erasing", "0.5", "--policy", "trivial", "--plain-share", "0.4", "--mixup",
                 "0.2", "--cutmix", "1", "--average", "0.9", "--weight-decay", "0.1", "--stochastic-depth", "0.2",
                 "--steps-per-execution", "3"],
    "hybrid": [*VIT, "--embedding", "hybrid", "--stem-widths", "4-6", "--stem-depth", "2", "--whitening",
               "--mirrored-filters", "--pool", "sequence", "--muon", "--accumulation-steps", "2", "--sam-rho", "0.05"],
    "float16": [*VIT, "--patch-size", "8", "--precision", "mixed_float16", "--token-learner", "v1", "--pool", "mean"],
    "resnet": ["--architecture", "resnet", "--blocks-per-stage", "1", "--first-width", "4"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_one_seed_gives_one_run_and_another_seed_another(pictures, tmp_path, own_process, name):
    runs = []
    for number, seed in enumerate((3, 3, 4), start=1):
        train_cifar10.main([*FLAGS, *SETTINGS[name], "--seed", str(seed), "--data-dir", str(pictures), "--run-folder",
                            str(tmp_path)])
        tensors, state = Run(tmp_path / f"cifar10-{number:03d}").load_state()
        runs.append((tensors, [[value for figure, value in row.items() if "seconds" not in figure]
                               for row in state["history"]]))
    (first, history), (again, same), (other, changed) = runs
    assert history == same != changed
    for tensor, array in first.items():
        np.testing.assert_array_equal(again[tensor], array, err_msg=tensor)
    assert any((other[tensor] != array).any() for tensor, array in first.items())
