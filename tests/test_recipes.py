"""Recipes and sizes: what they replace, what beats them, and that every script can follow them."""
from pathlib import Path

import pytest

from vision_transformer.recipes import FOR_DATASET, RECIPES, with_recipe
from vision_transformer.settings import read_settings
from vision_transformer.sizes import SIZES

ROOT = Path(__file__).parents[1]
SCRIPTS = ("train_cifar10.py", "train_cifar100.py", "train_digits.py", "examples/train_image_folder.py")


def chosen(*flags, script=SCRIPTS[0]):
    return with_recipe(read_settings(ROOT / script, list(flags)))


def test_the_default_is_the_script_as_it_stands_and_prints_nothing(capsys):
    assert chosen().as_dict() == read_settings(ROOT / SCRIPTS[0], []).as_dict()
    assert chosen("--recipe", "sample", "--epochs", "3").EPOCHS == 3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_its_constants_and_leaves_the_others(script, recipe):
    before, after = read_settings(ROOT / script, []).as_dict(), chosen("--recipe", recipe, script=script).as_dict()
    constants = {**RECIPES[recipe], **FOR_DATASET.get((recipe, before["DATASET"]), {})}
    assert after == {**before, **constants, "RECIPE": recipe}
    for name, value in constants.items():
        assert type(value) is type(before[name]), name


def test_a_recipe_has_other_constants_for_a_data_set():
    assert chosen("--recipe", "hybrid").STEM_WIDTHS == "48-192-192"
    assert chosen("--recipe", "hybrid", script="train_cifar100.py").STEM_WIDTHS == "64-256-256"
    assert chosen("--recipe", "hybrid", "--stem-widths", "8", script="train_cifar100.py").STEM_WIDTHS == "8"
    assert all(recipe in RECIPES for recipe, _ in FOR_DATASET)


def test_a_flag_beats_the_recipe_also_where_it_says_what_the_script_says(capsys):
    c = chosen("--recipe", "hybrid", "--batch-size", "512", "--epochs=3")
    assert (c.BATCH_SIZE, c.EPOCHS, c.EMBEDDING) == (512, 3, "hybrid")
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("recipe hybrid: --embedding hybrid (was linear), ") and "batch-size" not in line
    assert "--alternating-flip True (was False)" in line and "--epochs" not in line


@pytest.mark.parametrize("size", [size for size in SIZES if size])
def test_a_size_sets_four_constants_and_beats_the_recipe(size, capsys):
    c = chosen("--recipe", "compact", "--size", size, "--mlp-hidden-dim", "7")
    layers, width, heads, _ = SIZES[size]
    assert (layers, width, heads, 7) == (c.NUMBER_OF_LAYERS, c.EMBEDDING_DIM, c.NUM_HEADS, c.MLP_HIDDEN_DIM)
    said = capsys.readouterr().out
    assert f"size {size}: " in said or layers == 2, "compact-2 is the recipe's own size"


def test_a_resumed_run_keeps_its_own_constants(capsys):
    c = chosen("--recipe", "hybrid", "--alternating-flip", "--resume", "runs/cifar10-001")
    assert c.EMBEDDING == "linear" and capsys.readouterr().out == ""


def test_another_architecture_takes_what_is_not_the_models(capsys):
    c = chosen("--recipe", "hybrid", "--architecture", "resnet")
    assert (c.EMBEDDING, c.NUMBER_OF_LAYERS, c.SCHEDULE, c.EPOCHS) == ("linear", 8, "one-cycle", 13)
    said = capsys.readouterr().out
    assert said.startswith("recipe hybrid: --contrast 0.0 (was 0.2), ") and "--pool" not in said


@pytest.mark.parametrize("flags, says", [
    (["--recipe", "hibrid"], r"RECIPE 'hibrid' is not known; choose one of sample, .*-large \(did you mean hybrid"),
    (["--recipe", "xyz"], "choose one of sample, compact, hybrid, hybrid-large\\.$"),
    (["--size", "tiny", "--architecture", "resnet"], "SIZE 'tiny' is a size of ARCHITECTURE 'vit', not 'resnet'"),
    (["--size", "giant"], "SIZE 'giant' is not known; choose one of sample, tiny"),
    (["--alternating-flip"], "takes the place of FLIP_HORIZONTAL, which is 0.5; set one"),
    (["--recipe", "hybrid", "--flip-horizontal", "0.5"], "takes the place of FLIP_HORIZONTAL"),
])
def test_choices_that_can_not_be(flags, says):
    with pytest.raises(ValueError, match=says):
        chosen(*flags)


def test_a_script_without_a_constant_is_told_the_line_to_write():
    c = read_settings(ROOT / SCRIPTS[0], ["--recipe", "hybrid"])
    del c.BETA_2
    with pytest.raises(ValueError, match=r"recipe hybrid sets BETA_2, .*; write BETA_2 = 0\.99"):
        with_recipe(c)
