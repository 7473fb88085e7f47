"""Every constant of the scripts, given what makes no sense: refused by its name before anything is made.

Or taken, where the table TAKEN says what it then means. A constant that is new is tried without a line here.
"""
import functools
import inspect
import math
from pathlib import Path

import pytest
import train_image_folder
from picture_folders import make_folder
from tensorflow import keras

import train_cifar10
from vision_transformer import picture_classifier
from vision_transformer.architectures import ARCHITECTURES, build_model
from vision_transformer.checks import SWITCHES
from vision_transformer.contradictions import NEEDS, lacking
from vision_transformer.runs import Run
from vision_transformer.settings import flag_of, read_constants, read_settings
from vision_transformer.storage import RunError, write_tensors

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "train_cifar10.py"
CIFAR, FOLDER = ({constant.name: constant for constant in read_constants(script)[1]}
                 for script in (SCRIPT, ROOT / "examples" / "train_image_folder.py"))
CONSTANTS = {**CIFAR, **{name: constant for name, constant in FOLDER.items() if name not in CIFAR}}
SMALL = {"PATCH_SIZE": 8, "PATCH_STRIDE": 8, "NUMBER_OF_LAYERS": 1, "EMBEDDING_DIM": 8, "NUM_HEADS": 2,
         "MLP_HIDDEN_DIM": 6, "STEM_WIDTHS": "4-5", "LEARNED_TOKENS": 3, "BLOCKS_PER_STAGE": 1, "FIRST_WIDTH": 3,
         "VALIDATION_SHARE": 0.2, "BATCH_SIZE": 24, "EPOCHS": 2}

# kind of a value -> what is typed for a whole number, for any other number, for all else
TYPED = {"text": ("many",) * 3, "fraction": ("2.5", "1/3", "2.5"), "zero": ("0",) * 3, "negative": ("-1",) * 3,
         "huge": (str(10 ** 30), "1e30", str(10 ** 30)), "not a number": ("nan",) * 3, "infinite": ("inf",) * 3}
# kind of a value -> constant -> what it means, so that it is taken
OFF, NEVER = "that is off", "what would come then never does"
TAKEN = {
    "zero": {
        **dict.fromkeys(SWITCHES, "0 is false"),
        **{name: OFF for name, constant in CONSTANTS.items() if constant.group == "mixing"
           or (constant.group == "augmentation" and isinstance(constant.default, float))},
        **dict.fromkeys(("REGISTER_TOKENS", "LAYER_SCALE", "DROPOUT", "CLASSIFIER_DROPOUT", "STOCHASTIC_DEPTH",
                         "WARMUP_EPOCHS", "WEIGHT_DECAY", "CLIP_NORM", "AVERAGE", "LABEL_SMOOTHING", "EARLY_STOPPING",
                         "SAM_RHO", "SAVE_MINUTES"), OFF),
        "TOKEN_LEARNER_AFTER": "half of the blocks", "POLICY_STRENGTH": "the weakest", "SEED": "a seed as any",
        "BETA_2": "the mean square is the newest gradient's", "MINIMUM_LEARNING_RATE": "halving doesn't end",
    },
    "huge": {
        **dict.fromkeys(("PATIENCE", "EARLY_STOPPING"), NEVER),
        "STEPS_PER_EXECUTION": "as many as there are before the next look at the device",
        "SAVE_EVERY": "only at the end of an epoch",
    },
}
# As somebody may have edited the script: kind of the default -> values of another kind.
EDITED = {int: ("12", True, 2.5, math.inf), float: ("0.5", True, math.inf, -math.inf), bool: ("no", 1, 0.0),
          str: (12, True, 2.5)}


class Reached(Exception):
    """Raised where the run folder would be made."""


@functools.lru_cache(maxsize=None)
def beside(name):
    """Gives the choices beside which a constant has an effect."""
    choices = {need.names[0]: need.choices[0] if need.choices else 0.1 for need in NEEDS.get(name, ())}
    return {other: choice for other, choice in choices.items() if CONSTANTS[other].default != choice}


def around(name):
    """Gives a small setting in which a constant has an effect."""
    setting = {constant: constant_.default for constant, constant_ in CONSTANTS.items()}
    setting.update(beside(name))
    return {**{small: value for small, value in SMALL.items() if not lacking(small, setting)}, **beside(name)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of pictures, 30 of which are trained on."""
    return make_folder(tmp_path_factory.mktemp("photos"), {"coal": 16, "fire": 16, "sea": 16})


def script_of(name):
    """Gives the script that has a constant: that for CIFAR, or else that for folders of pictures."""
    return train_cifar10 if name in CIFAR else train_image_folder


@pytest.fixture
def main(pictures, photos, tmp_path, tmp_path_factory, monkeypatch, own_process):
    """Calls a script with a setting, up to where the run folder would be made; equal models are built once."""
    def reached(*_):
        raise Reached

    def run(setting):
        script, data_dir = train_cifar10, pictures
        if not setting.keys() <= CIFAR.keys():          # beside the other script's own constants, those of this one
            script, data_dir = train_image_folder, photos
            plain = {name: constant.default for name, constant in CIFAR.items() if constant.group != "data"}
            setting = {**{name: value for name, value in plain.items() if FOLDER[name].default != value
                          and (value is False or not lacking(name, {**plain, "DATASET": "folder"}))}, **setting}
        setting = {"DATA_DIR": str(data_dir), "RUN_FOLDER": str(tmp_path / "runs"), **setting}
        script.main([f"{flag_of(name)}={value}" for name, value in setting.items()])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.getbasetemp() / "keras"))
    for script in (train_cifar10, train_image_folder):
        monkeypatch.setattr(script, "open_run", reached)
        monkeypatch.setattr(script, "build_model", built_once)
    yield run
    assert list(tmp_path.iterdir()) == []


BUILT = {}


def built_once(**arguments):
    key = repr(sorted(arguments.items()))
    if key not in BUILT:
        BUILT[key] = build_model(**arguments)
    return BUILT[key]


def refusal(call, capsys):
    """Gives the line that a call refuses by; fails where there is none, or more."""
    with pytest.raises((ValueError, SystemExit)) as stop:
        call()
    if isinstance(stop.value, SystemExit):
        assert stop.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        return line
    [line] = str(stop.value).splitlines()
    return line


# ------------------------------------------------------------------------------------------ each constant
@pytest.mark.parametrize("kind", TYPED)
@pytest.mark.parametrize("name", CONSTANTS)
def test_a_senseless_flag_is_refused_by_its_name_or_means_something(name, kind, main, capsys):
    default = CONSTANTS[name].default
    whole, number, other = TYPED[kind]
    typed = whole if type(default) is int else number if isinstance(default, float) else other
    setting = {**around(name), name: typed}
    if name == "RUN_FOLDER" or name in TAKEN.get(kind, {}):
        with pytest.raises(Reached):
            main(setting)
        return
    line = refusal(lambda: main(setting), capsys)
    assert name in line or CONSTANTS[name].flag in line, line
    assert typed in line or f"{float(typed):g}" in line or str(float(typed)) in line, line
    assert len(line) < 400


@pytest.mark.parametrize("name, value", [(name, value) for name, constant in CONSTANTS.items()
                                         for value in EDITED[type(constant.default)]])
def test_a_constant_of_another_kind_is_refused_by_its_name(name, value, main, monkeypatch, capsys):
    def edited(script, arguments):
        settings = read_settings(script, arguments)
        setattr(settings, name, value)
        return settings

    monkeypatch.setattr(script_of(name), "read_settings", edited)
    typed = {} if name in CIFAR else {name: CONSTANTS[name].default}    # which tells the script
    line = refusal(lambda: main({**around(name), **typed}), capsys)
    assert name in line and (repr(value) in line or str(value) in line), line


@pytest.mark.parametrize("setting, says", [
    ({"BATCH_SIZE": 121}, "BATCH_SIZE is 121; choose a whole number from 1 to 120, which is all training pictures"),
    ({"EPOCHS": 429_496_730}, "EPOCHS is 429496730; choose a whole number from 1 to 429,496,729"),
    ({"WEIGHT_DECAY": 11, "LEARNING_RATE": 0.1}, "WEIGHT_DECAY is 11.0; choose a number from 0 to 10, where 0 is none"),
    ({"TRANSLATION": 0.01}, "TRANSLATION 0.01 is under half a pixel of 32x32 pictures"),
    ({"ACCUMULATION_STEPS": 11}, "ACCUMULATION_STEPS 11 makes no update in EPOCHS 2 of 5 batches; choose at most 10,"),
    ({"WARMUP_EPOCHS": 2}, "WARMUP_EPOCHS 2.0 doesn't fit EPOCHS 2; choose from 0 to below 2"),
    ({"MINIMUM_LEARNING_RATE": 0.002}, "MINIMUM_LEARNING_RATE 0.002 is above LEARNING_RATE 0.001"),
    ({"TOP_K": 11}, "TOP_K is 11; choose a whole number from 2 to 10, which is all classes"),
])
def test_the_first_value_that_does_not_fit_the_others_is_refused(setting, says, main, capsys):
    assert says in refusal(lambda: main({**around(""), **setting}), capsys)


@pytest.mark.parametrize("setting", [
    {"BATCH_SIZE": 120}, {"EPOCHS": 429_496_729}, {"WEIGHT_DECAY": 10, "LEARNING_RATE": 0.1}, {"TRANSLATION": 0.02},
    {"ACCUMULATION_STEPS": 10}, {"WARMUP_EPOCHS": 1.9}, {"MINIMUM_LEARNING_RATE": 0.001}, {"TOP_K": 10}])
def test_the_last_value_that_fits_is_taken(setting, main):
    with pytest.raises(Reached):
        main({**around(""), **setting})


# ------------------------------------------------------------------------------------------ a stranger's model
MODEL = {"image_shape": [32, 32, 3], "num_classes": 5}
JUNK = ("many", None, True, False, [3], {}, 2.5, -1, 0, math.nan, math.inf, 10 ** 30)
# What of it an argument takes.
FITS = {"register_tokens": (0,), "layer_scale": (2.5, 0), "token_learner_after": (0,), "seed": (0,),
        "read_registers": (0,), "whitening": (False,), "mirrored_filters": (False,), "pixel_mean": (None,),
        "pixel_deviation": (None,), "dropout": (0,), "stochastic_depth": (0,), "classifier_dropout": (0,)}
NO_ARGUMENTS = {"name", "kwargs"}                       # Keras's own


def arguments():
    for architecture, model in ARCHITECTURES.items():
        for name in inspect.signature(model).parameters:
            if name not in NO_ARGUMENTS:
                for value in JUNK:
                    if not any(value is fit for fit in FITS.get(name, ())):
                        yield architecture, name, value


@pytest.mark.parametrize("architecture, name, value", arguments())
def test_a_strangers_config_is_refused_by_the_arguments_name_before_anything_is_built(
        architecture, name, value, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.Model, "__init__", lambda *a, **k: pytest.fail("something was built"))
    for embedding in ("linear", "hybrid") if name.startswith("patch") else ("linear",):
        own = {"embedding": embedding} if architecture == "vit" else {}
        with pytest.raises((ValueError, TypeError), match=f"(?i){name}"):
            build_model(architecture, **{**MODEL, **own, name: value})
    run = Run.create(tmp_path, "mine", {"model": {"architecture": architecture, **MODEL, name: value}})
    write_tensors(run.path / "model.safetensors", {}, {})
    with pytest.raises(RunError, match=f"(?i)describes no model that can be built: .*{name}"):
        run.load_model()


@pytest.mark.parametrize("changes, says", [
    ({"image_shape": [32, 32]}, r"image_shape is \[32, 32\]; give 3 numbers: height, width and channels"),
    ({"image_shape": [10 ** 6, 32, 3]}, "image_shape's height is 1000000; choose a whole number from 1 to 16,384"),
    ({"image_shape": [32, "32", 3]}, "image_shape's width is '32'"),
    ({"image_shape": [32, 32, 2.0]}, "image_shape's channels is 2.0"),
    ({"image_shape": [2 ** 14, 2 ** 14, 3]}, "is 805,306,368 numbers; choose at most 67,108,864"),
    ({"image_shape": [2 ** 12, 2 ** 12, 3], "pool": "mean"}, "would have 8,796,093,022,208 shares of attention"),
    ({"pixel_mean": [1, math.nan, 3]}, "pixel_mean's entry is nan"), ({"pixel_mean": ["1", 2, 3]}, "entry is '1'"),
    ({"pixel_deviation": [1, 1e-9, 3]}, r"pixel_deviation is \[1.0, 1e-09, 3.0\]; each must be above 0"),
    ({"pixel_mean": "abc"}, "pixel_mean is 'abc'; give 3 numbers: one for each of 3 channels"),
    ({"pixel_mean": {"a": 1, "b": 2, "c": 3}}, "pixel_mean is {"),
    ({"number_of_layers": 10 ** 9}, "NUMBER_OF_LAYERS is 1000000000; choose a whole number from 1 to 1,000"),
    ({"embedding_dim": 10 ** 9}, "EMBEDDING_DIM is 1000000000; choose a whole number from 1 to 65,536"),
    ({"embedding_dim": 2 ** 16}, r"would have [\d,]+ weights, above the limit of 2,147,483,648; choose a smaller"),
    ({"embedding": "hybrid", "stem_widths": "65536-65536"}, r"would have [\d,]+ weights"),
    ({"embedding": "hybrid", "stem_widths": "65", "image_shape": [2 ** 13, 2 ** 12, 1]}, "numbers in a feature map"),
    ({"embedding": "hybrid", "stem_widths": "9999999999"}, "STEM_WIDTHS '9999999999' is no list of widths"),
    ({"embedding": "hybrid", "stem_widths": "9" * 10 ** 5}, "is no list of widths"),
    ({"architecture": "resnet", "first_width": 2 ** 16}, r"would have [\d,]+ weights"),
    ({"architecture": "resnet", "image_shape": [2 ** 12, 2 ** 12, 3], "first_width": 129}, "in a feature map"),
    ({"architecture": []}, r"ARCHITECTURE \[\] is not known; choose one of vit, resnet"),
])
def test_sizes_that_would_take_all_memory_are_refused(changes, says, monkeypatch):
    monkeypatch.setattr(keras.Model, "__init__", lambda *a, **k: pytest.fail("something was built"))
    with pytest.raises(ValueError, match=says):
        build_model(**{**MODEL, **changes})


def test_published_sizes_are_far_below_the_limits(monkeypatch):
    """ViT-H/14 at 518 pixels (arXiv 2304.07193), with room for ten times its weights."""
    class Built(Exception):
        pass

    def built(*_, **__):
        raise Built

    monkeypatch.setattr(keras.Model, "__init__", built)
    monkeypatch.setattr(picture_classifier, "MOST_NUMBERS", picture_classifier.MOST_NUMBERS // 2)
    with pytest.raises(Built):
        build_model(image_shape=(518, 518, 3), num_classes=1000, patch_size=14, patch_stride=14, number_of_layers=32,
                    embedding_dim=1280, num_heads=16, mlp_hidden_dim=5120, pool="cls")
