"""The run folder: what is written is read back, whole or refused, on either stack."""
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from vision_transformer import runs
from vision_transformer.runs import Run
from vision_transformer.storage import RunError

STORED = Path(__file__).parent / "stored"               # small runs, one saved on each stack: make.py there made them


def make_run(tmp_path, model):
    return Run.create(tmp_path / "runs", "bright", {"model": model.get_config(), "class_names": list("abcde")})


def test_folders_are_numbered_and_never_reused(tmp_path):
    (tmp_path / "a-007").mkdir()
    (tmp_path / "a-b").mkdir()
    (tmp_path / "a-²").mkdir()
    (tmp_path / "ab-100").mkdir()
    assert [Run.create(tmp_path, "a", {}).path.name for _ in range(2)] == ["a-008", "a-009"]
    assert Run.create(tmp_path / "new" / "folder", "b", {}).path.name == "b-001"


def test_two_trainings_at_once_get_two_folders(tmp_path, monkeypatch):
    Run.create(tmp_path, "a", {})
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
    with pytest.raises(RunError, match=r"is of shape .*12.* the model needs .*11"):
        run.load_model()


def test_missing_weights_say_so(tmp_path, make_model):
    with pytest.raises(RunError, match=r"model\.safetensors is missing"):
        make_run(tmp_path, make_model()).load_model()


@pytest.mark.parametrize("text, says", [
    ("{", "is damaged"), ("[]", "is damaged"), ("{}", "is damaged"), ('{"format": 99}', "newer version"),
    ('{"format": 1}', "older version"),
])
def test_bad_config_is_refused(tmp_path, text, says):
    run = Run.create(tmp_path, "a", {})
    (run.path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=says):
        _ = run.config


@pytest.mark.parametrize("model", [{}, {"image_shape": [6, 10, 3]}, {"surprise": 1},
                                   {"image_shape": 3, "num_classes": 2}])
def test_config_that_describes_no_model_is_refused(tmp_path, make_model, model):
    with pytest.raises(RunError, match="describes no model"):
        run = Run.create(tmp_path, "a", {"model": model})
        run.save_weights(make_model())
        run.load_model()


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


def test_a_command_line_can_be_pasted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    line = runs.command("-m", "x", Path("my runs") / "a-001")
    quote = '"' if runs.sys.platform == "win32" else "'"
    assert line == f"{Path('.venv') / 'bin' / 'python'} -m x {quote}{Path('my runs') / 'a-001'}{quote}"


def save_twice(tmp_path):
    run = Run.create(tmp_path, "a", {})
    for step in (7, 9):
        run.save_state({"x": np.full(5, step, np.float32)}, {"step": step, "history": []})
    return run


@pytest.mark.parametrize("damage", [flip_bit, lambda c: c[:-1], lambda c: b"", lambda c: c[:-1000], None],
                         ids=["bit", "truncated", "empty", "torn", "gone"])
def test_a_damaged_newest_save_is_named_and_the_one_before_is_used(tmp_path, capsys, damage):
    run = save_twice(tmp_path)
    newest = run.path / "state.safetensors"
    damaged = damage(newest.read_bytes()) if damage else None
    newest.write_bytes(damaged) if damage else newest.unlink()
    assert run.has_state()
    tensors, state = run.load_state()
    assert state["step"] == 7 and tensors["x"].tolist() == [7] * 5
    said = capsys.readouterr().out
    assert said.startswith(f"note: {newest} is {'damaged' if damage else 'missing'}") and "the save before it" in said
    if damage:
        assert (run.path / "state-damaged.safetensors").read_bytes() == damaged, "nothing is lost"
    assert run.load_state()[1]["step"] == 7 and capsys.readouterr().out == "", "it is said once"
    run.save_state({}, {"step": 8})
    flipped = flip_bit(newest.read_bytes())
    newest.write_bytes(flipped)
    assert run.load_state()[1]["step"] == 7, "the damaged one did not take the good one's place"


def test_with_both_saves_damaged_the_run_cannot_go_on(tmp_path):
    run = save_twice(tmp_path)
    for path in run.path.glob("state*"):
        path.write_bytes(flip_bit(path.read_bytes()))
    with pytest.raises(RunError, match=r"state\.safetensors is damaged.*-before\.safetensors is damaged.*begin a new"):
        run.load_state()


@pytest.mark.parametrize("config, says", [
    ({"class_names": "ab"}, "says that 'class_names' is 'ab', which is no list"),
    ({"class_names": ["a"]}, "no list of 2 names"), ({"class_names": ["a", 1]}, "no list of 2 names"),
    ({"class_names": ["a", "\x1b[2J"]}, "no list of 2 names"),
    ({"class_names": ["a", "b"], "model": None}, "'model num_classes'"),
    ({"class_names": ["a", "b"], "model": {"num_classes": "2"}}, "'model num_classes' is '2', which is no int"),
    ({}, "class_names"),
])
def test_what_commands_read_of_a_strangers_config_is_checked(tmp_path, config, says):
    with pytest.raises(RunError, match=re.escape(says)):
        _ = Run.create(tmp_path, "a", {"model": {"num_classes": 2}, **config}).class_names


@pytest.mark.parametrize("content, says", [
    ("[" * 100_000, "is damaged"), (" " * (2 ** 24 + 1), "bytes, more than any run's"), ("\ud800", "is damaged")],
    ids=["deep", "huge", "no UTF-8"])
def test_a_config_that_would_break_the_reader_is_refused(tmp_path, content, says):
    run = Run.create(tmp_path, "a", {})
    (run.path / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunError, match=says):
        _ = run.config


def test_a_model_far_larger_than_its_weights_file_is_not_made(tmp_path, make_model):
    run = make_run(tmp_path, make_model(image_shape=(6, 10, 3)))
    run.save_weights(make_model())
    config = run.config
    run.write_config({**config, "model": {**config["model"], "embedding_dim": 7 * 128, "mlp_hidden_dim": 2 ** 12}})
    with pytest.raises(RunError, match=r"(?s)describes no model .*many times larger than its weights' file"):
        run.load_model()


@pytest.mark.parametrize("stack", ["keras2", "keras3"])
def test_a_run_saved_on_either_stack_gives_the_same_logits_here(stack, images):
    expected = np.load(STORED / stack / "logits.npy", allow_pickle=False)
    np.testing.assert_allclose(Run(STORED / stack).load_model()(images), expected, atol=1e-5)
