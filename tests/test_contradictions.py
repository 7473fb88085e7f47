"""What contradicts what: flags without effect are refused by name, and what only looks contradictory works."""
import numpy as np
import pytest
from test_constants import CONSTANTS, ROOT, SCRIPT, around

import train_cifar10
from vision_transformer.contradictions import NEEDS, refuse_idle_flags
from vision_transformer.dry_run import dry_run, until_training
from vision_transformer.recipes import with_recipe
from vision_transformer.runs import Run
from vision_transformer.settings import flag_of, read_settings


def chosen(*flags):
    return with_recipe(read_settings(SCRIPT, list(flags)))


@pytest.mark.parametrize("flags, says", [
    ("--patience 5 --schedule cosine", r"^PATIENCE 5 has no effect with SCHEDULE 'cosine'; it belongs to SCHEDULE "
     r"'plateau'\. Leave it out, or choose that\.$"),
    ("--minimum-learning-rate 0.0001 --recipe hybrid", "MINIMUM_LEARNING_RATE 0.0001 has no effect with SCHEDULE 'on"),
    ("--pool cls --architecture resnet", "POOL 'cls' has no effect with ARCHITECTURE 'resnet'; it belongs to ARCHIT"),
    ("--first-width 8", "FIRST_WIDTH 8 has no effect with ARCHITECTURE 'vit'; it belongs to ARCHITECTURE 'resnet'"),
    ("--patch-size 8 --embedding hybrid", "PATCH_SIZE 8 has no effect with EMBEDDING 'hybrid'; it belongs to EMBEDDING "
     r"'linear' or 'convolution' or 'shifted'\. Leave it out, or choose one of these\.$"),
    ("--patch-stride 2 --recipe compact", "PATCH_STRIDE 2 has no effect with EMBEDDING 'compact'"),
    ("--stem-widths 4", "STEM_WIDTHS '4' has no effect with EMBEDDING 'linear'; it belongs to EMBEDDING 'hybrid' or"),
    ("--whitening --embedding compact", "WHITENING True has no effect with EMBEDDING 'compact'"),
    ("--learned-tokens 4", "LEARNED_TOKENS 4 has no effect with TOKEN_LEARNER ''; it belongs to TOKEN_LEARNER 'v1' or"),
    ("--token-learner-after 1 --architecture resnet", "TOKEN_LEARNER_AFTER 1 has no effect with ARCHITECTURE 'resnet'"),
    ("--policy-operations 3", "POLICY_OPERATIONS 3 has no effect with POLICY ''; it belongs to POLICY 'rand'"),
    ("--policy-strength 3 --policy trivial", "POLICY_STRENGTH 3 has no effect with POLICY 'trivial'"),
    ("--plain-share 0.2", "PLAIN_SHARE 0.2 has no effect with POLICY ''; it belongs to POLICY 'rand' or 'trivial'"),
    ("--hue 0.1 --dataset digits", "HUE 0.1 has no effect with DATASET 'digits'; it belongs to DATASET 'cifar10' or"),
    ("--fill-mode nearest --translation 0", "^FILL_MODE 'nearest' has no effect where ROTATION, SHEAR, ZOOM, "
     r"TRANSLATION and POLICY are all off; leave it out, or turn one of these on\.$"),
])
def test_a_flag_without_effect_is_refused_with_what_it_needs(flags, says):
    with pytest.raises(ValueError, match=says):
        chosen(*flags.split())


@pytest.mark.parametrize("flags, taken", [
    ("--patience 10 --schedule cosine", {"PATIENCE": 10, "SCHEDULE": "cosine"}),           # the script's own value
    ("--dropout 0.1 --architecture resnet", {"DROPOUT": 0.1, "ARCHITECTURE": "resnet"}),
    ("--fill-mode nearest --translation 0 --policy trivial", {"FILL_MODE": "nearest", "POLICY": "trivial"}),
    ("--fill-mode nearest", {"FILL_MODE": "nearest"}),
    ("--patience 5", {"PATIENCE": 5}),
    ("--recipe hybrid --schedule plateau --patience 5", {"EMBEDDING": "hybrid", "SCHEDULE": "plateau", "PATIENCE": 5}),
    ("--recipe hybrid --embedding linear --whitening false", {"EMBEDDING": "linear", "WHITENING": False}),
    ("--recipe compact --embedding linear", {"EMBEDDING": "linear", "STEM_WIDTHS": "64"}),
    ("--patience 5 --schedule cosine --resume runs/cifar10-001", {"PATIENCE": 5}),         # that run says what may be
])
def test_what_has_an_effect_or_changes_nothing_is_taken(flags, taken):
    settings = vars(chosen(*flags.split()))
    assert {name: settings[name] for name in taken} == taken


@pytest.mark.parametrize("name, need", [(name, need) for name, needs in NEEDS.items() for need in needs])
def test_each_row_of_the_table_refuses_a_flag_and_nothing_else(name, need):
    settings = chosen()
    for each in NEEDS[name]:
        vars(settings).update(dict.fromkeys(each.names, each.choices[0] if each.choices else 0.1))
    settings.changed = {name}
    vars(settings)[name] = True if CONSTANTS[name].default is False else CONSTANTS[name].default
    refuse_idle_flags(settings)
    vars(settings).update(dict.fromkeys(need.names, ""))
    with pytest.raises(ValueError, match=f"^{name} .* has no effect w.*{need.names[-1]}.*(?i:leave it out)"):
        refuse_idle_flags(settings)
    settings.changed = set()                            # the same constants, of which none was typed
    refuse_idle_flags(settings)


def test_the_table_knows_the_scripts_constants():
    others = {other for needs in NEEDS.values() for need in needs for other in need.names}
    assert NEEDS.keys() | others <= CONSTANTS.keys()
    of_the_model = {name for name, constant in CONSTANTS.items() if constant.group == "model"} - {"ARCHITECTURE"}
    assert of_the_model <= NEEDS.keys(), "each belongs to one architecture"


def test_a_runs_constants_are_rehearsed_also_where_some_have_no_effect(pictures, tmp_path, monkeypatch, capsys):
    """A recipe set STEM_WIDTHS and somebody PATIENCE, in the script; neither was typed."""
    monkeypatch.chdir(ROOT)
    flags = [f"{flag_of(name)}={value}" for name, value in around("").items()]
    training = dry_run(SCRIPT, ["--recipe", "compact", "--embedding", "linear", "--data-dir", str(pictures), *flags,
                                "--warmup-epochs", "1"])
    constants = {**training.constants, "PATIENCE": 5}
    assert (constants["STEM_WIDTHS"], constants["SCHEDULE"]) == ("64", "cosine")
    run = Run.create(tmp_path, "cifar10", {"constants": constants, "command": "train_cifar10.py"})
    rehearsed = dry_run(run.path).constants
    assert {**rehearsed, "RUN_FOLDER": ""} == {**constants, "RUN_FOLDER": ""}
    with pytest.raises(SystemExit):
        dry_run(run.path, ["--alternating-flip"])
    assert "ALTERNATING_FLIP takes the place of FLIP_HORIZONTAL" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        dry_run(SCRIPT, ["--patience", "5", "--schedule", "cosine"])
    assert "PATIENCE 5 has no effect with SCHEDULE 'cosine'" in capsys.readouterr().err


@pytest.mark.parametrize("mixing", [{"MIXUP": 0.2}, {"CUTMIX": 1.0}, {"MIXUP": 0.2, "CUTMIX": 1.0}])
def test_mixed_labels_go_with_the_plain_loss_and_no_average(mixing, pictures, tmp_path, monkeypatch):
    """The loss is of shares of classes, whether labels are mixed or not: no choice of MIXUP or CUTMIX needs another."""
    monkeypatch.setattr(train_cifar10, "announce", lambda *_: None)
    setting = {**around(""), "DATA_DIR": pictures, "RUN_FOLDER": tmp_path, "LABEL_SMOOTHING": 0, "AVERAGE": 0,
               "DROPOUT": 0, "CLASSIFIER_DROPOUT": 0, **mixing}
    training = until_training(lambda: train_cifar10.main([f"{flag_of(n)}={v}" for n, v in setting.items()]))
    step, images, labels = next(iter(training.batches))
    assert labels.shape == (24, 10) and ((labels.numpy() > 0).sum(axis=1) == 2).any()
    np.testing.assert_allclose(labels.numpy().sum(axis=1), 1, rtol=1e-5)
    loss, _ = training.owner.task.loss((images, labels), step)
    logits = training.owner.task.model(images).numpy().astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(loss, -(labels.numpy() * np.log(shares)).sum(axis=1).mean(), rtol=1e-5)
    before = [v.numpy() for v in training.owner.task.model.trainable_variables]
    training.owner.train_step(training.batches)(step, images, labels)
    after = [v.numpy() for v in training.owner.task.model.trainable_variables]
    assert any((one != other).any() for one, other in zip(before, after))
    with training.owner.optimizer.averaged():
        for variable, value in zip(training.owner.task.model.trainable_variables, after):
            np.testing.assert_array_equal(variable.numpy(), value)
