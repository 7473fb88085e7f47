"""The grid: each choice of each option meets each choice of every other, and each command that takes up a run.

All of it in as few trainings as that takes: one covers thousands of pairs. OPTIONS is the table to add a row to.
"""
import itertools
import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from consumers import STEPS, THEN
from test_options import WITHOUT_EFFECT

import train_cifar10
from vision_transformer import directml, report, training
from vision_transformer.architectures import ARCHITECTURES
from vision_transformer.classification import Classification, classification_figures
from vision_transformer.commands import explain as explain_command
from vision_transformer.compat import raw, weight_path
from vision_transformer.contradictions import NEEDS, lacking
from vision_transformer.datasets import load_dataset, split_validation
from vision_transformer.model import CHOICES
from vision_transformer.moves import FILL_MODES
from vision_transformer.optimizer import AdamW
from vision_transformer.policies import POLICIES
from vision_transformer.precision import PRECISIONS, set_precision
from vision_transformer.runs import Run
from vision_transformer.schedules import SCHEDULES
from vision_transformer.settings import flag_of, read_constants
from vision_transformer.steps import compiled_step, compiled_steps
from vision_transformer.xla import as_on_directml

ROOT = Path(__file__).parents[1]
SCRIPT = "train_cifar10.py"                 # 32x32 pixels of three channels: hue and saturation do something

# A constant -> its choices; of a number: one that is off, one that is on. "THEN" is who takes up the finished run.
OPTIONS = {
    "ARCHITECTURE": ("vit", "resnet"),
    "EMBEDDING": ("linear", "convolution", "shifted", "hybrid", "compact"),
    "PATCH_STRIDE": (8, 4), "STEM_DEPTH": (1, 2), "WHITENING": (False, True),
    "MIRRORED_FILTERS": (False, True),
    "POSITIONS": ("learned", "sincos", "none"), "REGISTER_TOKENS": (0, 2), "NUMBER_OF_LAYERS": (1, 2),
    "ATTENTION": ("plain", "locality"), "NORM": ("pre", "post"), "LAYER_SCALE": (0, 0.1),
    "TOKEN_LEARNER": ("", "v1", "v1.1"), "TOKEN_LEARNER_AFTER": (0, 1),
    "POOL": ("flatten", "cls", "mean", "sequence"), "CLASSIFIER": ("mlp", "linear"),
    "DROPOUT": (0, 0.2), "CLASSIFIER_DROPOUT": (0, 0.2), "STOCHASTIC_DEPTH": (0, 0.2),
    "FLIP_HORIZONTAL": (0, 0.5), "FLIP_VERTICAL": (0, 0.5), "ROTATION": (0, 15), "SHEAR": (0, 10), "ZOOM": (0, 0.1),
    "TRANSLATION": (0, 0.1), "CONTRAST": (0, 0.2), "BRIGHTNESS": (0, 0.2), "SATURATION": (0, 0.2), "HUE": (0, 0.1),
    "ERASING": (0, 0.5), "FILL_MODE": ("reflect", "nearest", "constant"), "POLICY": ("", "rand", "trivial"),
    "PLAIN_SHARE": (0, 0.5),
    "MIXUP": (0, 0.2), "CUTMIX": (0, 1), "ALTERNATING_FLIP": (False, True),
    "SCHEDULE": ("plateau", "constant", "cosine", "one-cycle", "step"), "WARMUP_EPOCHS": (0, 0.5),
    "MUON": (False, True), "WEIGHT_DECAY": (0, 0.1), "BETA_2": (0.999, 0.99), "CLIP_NORM": (0, 0.5),
    "ACCUMULATION_STEPS": (1, 2), "AVERAGE": (0, 0.9), "LABEL_SMOOTHING": (0, 0.1),
    "EARLY_STOPPING": (0, 1), "SAM_RHO": (0, 0.05), "XLA": (False, True), "STEPS_PER_EXECUTION": (1, 3),
    "SAVE_EVERY": (100, 2), "SAVE_MINUTES": (0, 0.001),
    "DETERMINISTIC": (False, True), "PRECISION": ("float32", "mixed_bfloat16", "mixed_float16"),
    "TEST_FLIP": (False, True),
    "THEN": ("evaluate_and_predict", "explain", "export", "rehearse", "resume"),
}
# What is only a size, the same in all trainings.
SIZES = {
    "VALIDATION_SHARE": 0.2, "PATCH_SIZE": 8, "STEM_WIDTHS": "4-6", "EMBEDDING_DIM": 8, "NUM_HEADS": 2,
    "MLP_HIDDEN_DIM": 12, "LEARNED_TOKENS": 3, "BLOCKS_PER_STAGE": 1, "FIRST_WIDTH": 4, "POLICY_OPERATIONS": 2,
    "POLICY_STRENGTH": 9, "BATCH_SIZE": 24, "LEARNING_RATE": 0.003, "MINIMUM_LEARNING_RATE": 0.001, "PATIENCE": 1,
    "TOP_K": 3, "EPOCHS": 1}
ELSEWHERE = {"RECIPE", "SIZE", "DATASET", "DATA_DIR", "SEED", "RUN_FOLDER", "RESUME", "DEBUG"}      # their own tests'

# An option -> what must be chosen for it to say anything; elsewhere it stays as the script has it.
ONLY_WITH = {name: {need.names[0]: set(need.choices) for need in needs if need.names[0] in OPTIONS and need.choices}
             for name, needs in NEEDS.items() if name in OPTIONS}
# Choices that exclude each other, and what the script says then.
REFUSED = [
    ({"ALTERNATING_FLIP": True, "FLIP_HORIZONTAL": 0.5}, "ALTERNATING_FLIP takes the place of FLIP_HORIZONTAL"),
    *[({"FILL_MODE": mode, "ROTATION": 0, "SHEAR": 0, "ZOOM": 0, "TRANSLATION": 0, "POLICY": ""},
       f"FILL_MODE '{mode}' has no effect where ROTATION, SHEAR, ZOOM, TRANSLATION and POLICY are all off")
      for mode in ("nearest", "constant")],
    *[({"POOL": "cls", "TOKEN_LEARNER": version, "NUMBER_OF_LAYERS": 1}, f"'{version}' behind the last block is of no")
      for version in ("v1", "v1.1")],
]


# ------------------------------------------------------------------------------------------ few settings, all pairs
def possible(setting):
    """Tells whether a training can have these choices together, some constants being yet unchosen."""
    left = {name: {choice} for name, choice in setting.items()}         # constant -> what all others leave it
    for item in setting.items():
        for name, needed in ONLY_WITH.get(item[0], {}).items():
            left[name] = left.get(name, set(OPTIONS[name])) & needed
    for excluded, _ in REFUSED:
        unlike = [name for name in excluded if setting.get(name) != excluded[name]]
        for name in (unlike or excluded) if len(unlike) < 2 else ():    # one is left: it can't be that
            left[name] = left.get(name, set(OPTIONS[name])) - {excluded[name]}
    return all(left.values())


def grid():
    """Lists settings, {constant: choice}, in which each possible pair of choices occurs: greedily few.

    Each begins with a pair that none has yet, of choices that want most others, and takes for one constant after the
    other the choice that makes most new pairs, or else the first. XLA waits until only its own pairs are left, since a
    step is compiled the sooner the fewer options are on.
    """
    chance = random.Random(121)                 # of 200 seeds the one with the fewest settings
    items = [(name, choice) for name, choices in OPTIONS.items() for choice in choices]
    new = {item: {other for other in items if other[0] != item[0] and possible(dict([item, other]))} for item in items}
    settings = []

    def urgency(item):
        return len(ONLY_WITH.get(item[0], {})), len(new[item])

    def order(name):            # what others need comes before them, many choices before few
        return len(ONLY_WITH.get(name, {})), -len(OPTIONS[name]), chance.random()

    for last in (("XLA", True), None):
        while any(partners - {last} for item, partners in new.items() if item != last):
            free = [item for item in items if item != last]
            first = max(free, key=lambda item: (bool(new[item] - {last}), urgency(item)))
            setting = dict([first, max(new[first] - {last}, key=lambda item: (urgency(item), items.index(item)))])
            for name in sorted(OPTIONS, key=order):
                choices = [(name, choice) for choice in OPTIONS[name] if name not in setting
                           and (name, choice) in free and possible({**setting, name: choice})]
                if choices:
                    setting.update([max(choices, key=lambda item: len(new[item].intersection(setting.items())))])
            for item in setting.items():
                new[item] -= set(setting.items())
            settings.append({name: setting[name] for name in OPTIONS if name in setting})
    return settings


GRID = grid()


def test_each_possible_pair_occurs_and_few_are_impossible():
    met = {pair for setting in GRID for pair in itertools.combinations(setting.items(), 2)}
    items = [(name, choice) for name, choices in OPTIONS.items() for choice in choices]
    unmet = {(one, other) for one, other in itertools.combinations(items, 2) if one[0] != other[0]} - met
    assert all(map(possible, GRID))
    for one, other in unmet:
        want, wants = ({item[0]: {item[1]}, **ONLY_WITH.get(item[0], {})} for item in (one, other))
        apart = any(want[name].isdisjoint(wants[name]) for name in want.keys() & wants.keys())
        assert apart or dict([one, other]) in [excluded for excluded, _ in REFUSED], f"{one} never meets {other}"
    assert len(met) > 5000 > 100 * len(GRID)


def sized(setting):
    """Gives a setting with those of the SIZES that have an effect in it."""
    constants = {**{constant.name: constant.default for constant in read_constants(ROOT / SCRIPT)[1]}, **setting}
    return {**{name: size for name, size in SIZES.items() if not lacking(name, constants)}, **setting}


def test_no_constant_and_no_choice_is_forgotten():
    constants = {constant.name: constant.default for constant in read_constants(ROOT / SCRIPT)[1]}
    assert {*OPTIONS, *SIZES, *ELSEWHERE} - {"THEN"} == set(constants)
    assert len(OPTIONS) + len(SIZES) + len(ELSEWHERE) == len(constants) + 1
    for name, default in constants.items():
        assert not isinstance(default, bool) or name in ELSEWHERE or set(OPTIONS[name]) == {False, True}, name
    tables = {**CHOICES, "architecture": ARCHITECTURES, "fill_mode": FILL_MODES, "policy": ("", *POLICIES),
              "schedule": SCHEDULES, "precision": PRECISIONS, "then": THEN}
    for name, choices in tables.items():
        assert set(OPTIONS[name.upper()]) == set(choices), name
    assert all(len(choices) == len(set(choices)) > 1 for choices in OPTIONS.values())


# ------------------------------------------------------------------------------------------ trainings
@pytest.fixture(autouse=True)
def process(monkeypatch, own_process):
    """As if each test had a process of its own, begun where the script is."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(report, "SAMPLES", 2)                   # drawing takes as long as such a training
    for picture in ("save_curves", "save_confusion", "write_report_page"):
        monkeypatch.setattr(report, picture, lambda *_: None)
    monkeypatch.setattr(explain_command, "save_figure", lambda *_: None)


class Watched(NamedTuple):
    """What one training leaves in memory."""

    first: dict                 # name -> trained weight before the first step
    tasks: list
    steps: list                 # the compiled functions; the last one is what was called


@pytest.fixture
def train(pictures, tmp_path, monkeypatch):
    """Runs the script with the flags of a setting, and watches."""
    watched = Watched({}, [], [])

    def optimizer(variables, *arguments, **options):
        watched.first.update({weight_path(v): raw(v).numpy() for v in variables})
        return AdamW(variables, *arguments, **options)

    def keeping(function, kept):
        return lambda *arguments, **options: kept.append(function(*arguments, **options)) or kept[-1]

    def run(setting):
        flags = [word for name, choice in setting.items() for word in (flag_of(name), str(choice))]
        flags += ["--data-dir", str(pictures), "--run-folder", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", [SCRIPT, *flags])      # the run's config.json will say so
        train_cifar10.main(flags)
        return watched

    monkeypatch.setattr(train_cifar10, "AdamW", optimizer)
    monkeypatch.setattr(train_cifar10, "Classification", keeping(Classification, watched.tasks))
    for maker in (compiled_step, compiled_steps):
        monkeypatch.setattr(training, maker.__name__, keeping(maker, watched.steps))
    return run


@pytest.mark.parametrize("setting, says", REFUSED)
def test_what_excludes_each_other_is_refused(setting, says, train):
    with pytest.raises(ValueError, match=says):
        train(sized(setting))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(GRID)))
def test_a_training_and_who_takes_it_up(number, train, tmp_path, capsys):
    setting = sized(GRID[number])
    then, exact = setting.pop("THEN"), setting["PRECISION"] == "float32"
    print(then, setting)                                        # shown where the test fails
    watched, run = train(setting), Run(tmp_path / "cifar10-001")
    tensors, state = run.load_state()
    [row] = state["history"]
    assert row["step"] == state["step"] == STEPS
    assert all(np.isfinite(value) for value in row.values())
    for name, before in watched.first.items():
        after = tensors[f"weights/{name}"]
        assert np.isfinite(after).all() and ((after != before).any() or name in WITHOUT_EFFECT), name
    if not setting["XLA"] and setting["PRECISION"] != "mixed_bfloat16":             # which DirectML doesn't have
        step, *steps = watched.steps                            # of several in one call, too
        for function in (step, watched.tasks[0].predict_step):
            anew = tf.function(function.python_function, input_signature=function.input_signature)
            with as_on_directml():
                assert directml.check(anew.get_concrete_function()) == []
        by_xla = {"_XlaMustCompile"} if setting.get("MIRRORED_FILTERS") else set()
        for function in steps:                                  # which hold the step as it is on a CPU
            assert {found.op for found in directml.check(function.get_concrete_function())} <= by_xla

    set_precision("float32")                                    # as in a new process, which knows only the folder
    data = load_dataset("cifar10", run.read("constants")["DATA_DIR"])
    _, validation = split_validation(data.train, setting["VALIDATION_SHARE"], seed=0)
    results = json.loads((run.path / "results.json").read_text(encoding="utf-8"))
    assert ("test_flip_accuracy" in results) == setting["TEST_FLIP"]
    model = run.load_model()
    for split, loss, accuracy in ((validation, row["val_loss"], row["val_accuracy"]),
                                  (data.test, results["test_loss"], results["test_accuracy"])):
        logits = model(split.images).numpy()
        figures = classification_figures(logits, split.labels, setting["TOP_K"])
        assert figures[0] == pytest.approx(loss, rel=1e-4 if exact else 0.03)
        assert figures[1] == accuracy or not exact
    THEN[then](run, data.test, logits, lambda: capsys.readouterr().out)
