"""The run folder: what is written is read back, whole or refused, on either stack."""
import json
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from vision_transformer import runs
from vision_transformer.runs import Run, RunError

STORED = Path(__file__).parent / "stored"               # small runs, one saved on each stack: make.py there made them


def make_run(tmp_path, model):
    return Run.create(tmp_path / "runs", "bright", {"model": model.get_config(), "class_names": list("abcde")})


def test_folders_are_numbered_and_never_reused(tmp_path):
    (tmp_path / "a-007").mkdir()
    (tmp_path / "a-b").mkdir()
    (tmp_path / "ab-100").mkdir()
    assert [Run.create(tmp_path, "a", {}).path.name for _ in range(2)] == ["a-008", "a-009"]
    assert Run.create(tmp_path / "new" / "folder", "b", {}).path.name == "b-001"


def test_two_trainings_at_once_get_two_folders(tmp_path, monkeypatch):
    (tmp_path / "a-001").mkdir()
    monkeypatch.setattr(Path, "glob", lambda *_: [])    # the other one appeared after we had looked
    assert Run.create(tmp_path, "a", {}).path.name == "a-002"


@pytest.mark.parametrize("pool", ["flatten", "cls", "mean"])
def test_saved_model_loads_with_the_same_logits(tmp_path, make_model, images, pool):
    model = make_model(pool=pool, pixel_mean=[1, 2, 3], pixel_deviation=[4, 5, 6])
    run = make_run(tmp_path, model)
    assert not run.has_weights()
    run.save_weights(model)
    assert run.has_weights()
    np.testing.assert_array_equal(Run(run.path).load_model()(images), model(images))


def test_weights_are_plain_safetensors_named_by_path(tmp_path, make_model):
    model = make_model()
    run = make_run(tmp_path, model)
    run.save_weights(model)
    tensors = safetensors.numpy.load_file(run.path / "model.safetensors")
    assert len(tensors) == len(model.trainable_variables)
    assert tensors["block_1/attention/query_key_value/kernel"].shape == (14, 42)
    assert tensors["positions/table/embeddings"].shape == (15, 14)


def test_arrays_that_are_not_contiguous_are_written_right(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    runs.write_tensors(tmp_path / "x", {"t": array.T, "s": array[:, ::2], "scalar": np.float32(7)})
    tensors, _ = runs.read_tensors(tmp_path / "x")
    np.testing.assert_array_equal(tensors["t"], array.T)
    np.testing.assert_array_equal(tensors["s"], array[:, ::2])
    assert tensors["scalar"] == 7


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    runs.write(path, "old")
    monkeypatch.setattr(runs.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        runs.write(path, "new")
    assert path.read_text(encoding="utf-8") == "old"


def flip_bit(content):
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize("damage", [
    flip_bit, lambda c: c[:-1], lambda c: b"", lambda c: c[:5], lambda c: b"hello world, I am no weights",
    lambda c: struct.pack("<Q", 2 ** 31) + c[8:],
], ids=["bit", "truncated", "empty", "short", "other", "2GB-header"])
def test_damaged_weights_are_refused(tmp_path, make_model, damage):
    run = make_run(tmp_path, make_model())
    run.save_weights(make_model())
    path = run.path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        run.load_model()


def test_weights_of_another_model_are_refused_with_both_lists(tmp_path, make_model):
    run = make_run(tmp_path, make_model())
    run.save_weights(make_model(number_of_layers=1, pool="cls"))
    with pytest.raises(RunError, match=r"missing block_1/.*unknown class_token/token\."):
        run.load_model()
    run.save_weights(make_model(mlp_hidden_dim=12))
    with pytest.raises(RunError, match=r"has shape .*12.* the model needs .*11"):
        run.load_model()


def test_missing_weights_say_so(tmp_path, make_model):
    with pytest.raises(RunError, match=r"model\.safetensors is missing"):
        make_run(tmp_path, make_model()).load_model()


@pytest.mark.parametrize("text, says", [
    ("{", "is damaged"), ("[]", "is damaged"), ("{}", "is damaged"), ('{"format": 99}', "newer version"),
])
def test_bad_config_is_refused(tmp_path, text, says):
    run = Run.create(tmp_path, "a", {})
    (run.path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=says):
        _ = run.config


@pytest.mark.parametrize("model", [{}, {"image_shape": [6, 10, 3]}, {"surprise": 1},
                                   {"image_shape": 3, "num_classes": 2}])
def test_config_that_describes_no_model_is_refused(tmp_path, model):
    with pytest.raises(RunError, match="describes no model"):
        Run.create(tmp_path, "a", {"model": model}).load_model()


def test_no_run_folder_is_refused_by_name(tmp_path):
    with pytest.raises(RunError, match=r"nowhere is no run folder"):
        Run(tmp_path / "nowhere")


def test_state_comes_back_exactly(tmp_path):
    run = Run.create(tmp_path, "a", {})
    tensors = {"x": np.float32([0.1, np.pi]), "y": np.zeros((0, 3), np.float32)}
    state = {"step": 7, "best_accuracy": 0.1 + 0.2, "history": [{"loss": 1 / 3}]}
    assert not run.has_state()
    run.save_state(tensors, state)
    loaded, values = run.load_state()
    assert values == state
    for name, array in tensors.items():
        np.testing.assert_array_equal(loaded[name], array)


def settings(given=(), **values):
    object_ = SimpleNamespace(given=frozenset(given), **values)
    object_.as_dict = lambda: {k: v for k, v in vars(object_).items() if k.isupper()}
    return object_


def test_resume_takes_the_runs_constants_and_the_flags_that_may_change(tmp_path):
    run = Run.create(tmp_path, "a", {"constants": {"RESUME": "", "EPOCHS": 5, "PATCH_SIZE": 8, "SEED": 3,
                                                      "TEST_FLIP": False}})
    c = runs.resumed(settings({"RESUME", "EPOCHS", "SEED", "TEST_FLIP"}, RESUME=str(run.path), EPOCHS=9, PATCH_SIZE=4,
                              SEED=3, TEST_FLIP=True))
    assert (str(run.path), 9, 8, 3, True) == (c.RESUME, c.EPOCHS, c.PATCH_SIZE, c.SEED, c.TEST_FLIP)
    same = settings(RESUME="", EPOCHS=9)
    assert runs.resumed(same) is same
    with pytest.raises(RunError, match="begun with PATCH_SIZE 8, which can't become 4"):
        runs.resumed(settings({"PATCH_SIZE"}, RESUME=str(run.path), PATCH_SIZE=4))


def test_resume_says_which_constants_of_the_script_do_not_count(tmp_path, capsys):
    run = Run.create(tmp_path, "a", {"constants": {"RESUME": "", "EPOCHS": 5, "SEED": 3}})
    runs.resumed(settings({"RESUME"}, RESUME=str(run.path), EPOCHS=9, SEED=3))
    said = "note: the run goes on with its own constants, not the script's (in brackets): EPOCHS 5 (9)\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("typed", [(), ("SCHEDULE",)])
@pytest.mark.parametrize("schedule, says", [
    ("cosine", "note: SCHEDULE cosine now stretches over 9 epochs; the learning rate goes on from where"),
    ("plateau", ""), ("constant", "")])
def test_more_epochs_under_a_falling_schedule_are_a_jump_and_said_so(tmp_path, capsys, schedule, says, typed):
    run = Run.create(tmp_path, "a", {"constants": {"RESUME": "", "EPOCHS": 5, "SCHEDULE": schedule}})
    runs.resumed(settings({"RESUME", "EPOCHS", *typed}, RESUME=str(run.path), EPOCHS=9, SCHEDULE=schedule))
    said = capsys.readouterr().out
    assert says in said and bool(said) == bool(says)


def test_resume_of_a_run_that_cannot_go_on_is_refused(tmp_path, data, make_model):
    run = runs.open_run(settings(RESUME="", RUN_FOLDER=str(tmp_path)), data, make_model())

    def again(epochs):
        return runs.open_run(settings(RESUME=str(run.path), EPOCHS=epochs), data, make_model())

    run.save_state({}, {"history": [{"epoch": 1}] * 3})
    with pytest.raises(RunError, match="already has 3 epochs; to train on, give it more: --epochs 6"):
        again(2)
    again(3)                                            # killed before the test set was read: that is still to come
    run.write_results({})
    with pytest.raises(RunError, match="already has 3 epochs"):
        again(3)
    assert again(4).config["constants"]["EPOCHS"] == 4
    run.write_history([{"epoch": 1}])
    (run.path / "state.safetensors").unlink()
    with pytest.raises(RunError, match=r"state\.safetensors is gone, so the run can't go on"):
        again(4)


def test_a_command_line_can_be_pasted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    line = runs.command("-m", "x", Path("my runs") / "a-001")
    quote = '"' if runs.sys.platform == "win32" else "'"
    assert line == f"{Path('.venv') / 'bin' / 'python'} -m x {quote}{Path('my runs') / 'a-001'}{quote}"


def test_a_file_that_someone_looks_at_is_waited_for(monkeypatch, tmp_path):
    replace, failures = Path.replace, [1, 1]
    monkeypatch.setattr(Path, "replace", lambda self, to: (_ for _ in ()).throw(PermissionError("in use"))
                        if failures and failures.pop() else replace(self, to))
    monkeypatch.setattr(runs.time, "sleep", lambda seconds: None)
    runs.write(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "new" and not failures
    failures.extend([1] * 99)
    with pytest.raises(PermissionError, match="in use"):
        runs.write(tmp_path / "x", "newer")


def test_resume_on_other_data_is_refused(tmp_path, data, make_model):
    run = runs.open_run(settings(RESUME="", RUN_FOLDER=str(tmp_path)), data, make_model())
    assert run.path.name == "bright-001"
    assert json.loads((run.path / "config.json").read_text(encoding="utf-8"))["data"]["name"] == "bright"
    again = settings(RESUME=str(run.path), RUN_FOLDER=str(tmp_path), EPOCHS=9)
    assert runs.open_run(again, data, make_model()).path == run.path
    assert runs.resumed(settings(RESUME=str(run.path), EPOCHS=5)).EPOCHS == 9, "the next resume goes on as this one"
    assert runs.Run(run.path).config["model"] == make_model().get_config() | {"image_shape": [6, 10, 3]}
    data.train.images[0, 0, 0, 0] ^= 1
    with pytest.raises(RunError, match="other data"):
        runs.open_run(again, data, make_model())


@pytest.mark.parametrize("stack", ["keras2", "keras3"])
def test_a_run_saved_on_either_stack_gives_the_same_logits_here(stack, images):
    expected = np.load(STORED / stack / "logits.npy", allow_pickle=False)
    np.testing.assert_allclose(Run(STORED / stack).load_model()(images), expected, atol=1e-5)
