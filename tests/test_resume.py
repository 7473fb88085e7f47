"""Going on with a run: what may change on the way, what is refused, and that a stopped run is found again."""
import json
import re
from pathlib import Path

import pytest
from processes import hold

from vision_transformer.resume import MAY_CHANGE, STAYS, open_run, resumed
from vision_transformer.runs import Run
from vision_transformer.settings import Settings, flag_of, read_constants, read_settings
from vision_transformer.storage import RunError

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "train_digits.py"
CONSTANTS = read_constants(SCRIPT)[1]


def settings(given=(), **values):
    return Settings(given=frozenset(given), changed=frozenset(), headings=dict.fromkeys(values, "model"), **values)


def test_resume_takes_the_runs_constants_and_the_flags_that_may_change(tmp_path):
    run = Run.create(tmp_path, "a", {"constants": {"RESUME": "", "EPOCHS": 5, "PATCH_SIZE": 8, "SEED": 3,
                                                      "TEST_FLIP": False}})
    c = resumed(settings({"RESUME", "EPOCHS", "SEED", "TEST_FLIP"}, RESUME=str(run.path), EPOCHS=9, PATCH_SIZE=4,
                              SEED=3, TEST_FLIP=True))
    assert (str(run.path), 9, 8, 3, True) == (c.RESUME, c.EPOCHS, c.PATCH_SIZE, c.SEED, c.TEST_FLIP)
    same = settings(RESUME="", EPOCHS=9)
    assert resumed(same) is same


@pytest.mark.parametrize("name", [constant.name for constant in CONSTANTS])
def test_a_table_decides_what_may_change(tmp_path, name):
    """Each constant of the scripts, given another value by its flag."""
    [constant] = [c for c in CONSTANTS if c.name == name]
    begun = {c.name: c.default for c in CONSTANTS}
    run = Run.create(tmp_path, "a", {"constants": begun})
    other = {bool: lambda: not constant.default, str: lambda: constant.default + "x"}.get(
        type(constant.default), lambda: constant.default + 1)()
    flags = ["--resume", str(run.path), *([] if name == "RESUME" else [constant.flag, str(other)])]
    if name in {*MAY_CHANGE, "RESUME"}:
        c = resumed(read_settings(SCRIPT, flags))
        changed = {**begun, "RESUME": str(run.path), **({} if name == "RESUME" else {name: other})}
        assert c.as_dict() == changed
    elif name != "RESUME":
        says = f"begun with {name} {constant.default!r}, which can't become {other!r} on the way: "
        with pytest.raises(RunError, match=re.escape(says) + r"[a-z].{15,}\. Leave the flag out"):
            resumed(read_settings(SCRIPT, flags))


def test_the_table_names_constants_only_and_gives_each_group_its_reason():
    names, groups = {c.name for c in CONSTANTS}, {c.group for c in CONSTANTS if c.name not in {*MAY_CHANGE, "RESUME"}}
    assert MAY_CHANGE.keys() <= names and STAYS.keys() <= groups | names - MAY_CHANGE.keys()
    documented = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert all(f"| `{flag_of(name)}` | {what} |" in documented for name, what in MAY_CHANGE.items())


@pytest.mark.parametrize("name, value", [("EPOCHS", "5"), ("EPOCHS", 5.0), ("TEST_FLIP", 1), ("POOL", None)])
def test_constants_of_another_kind_are_refused(tmp_path, name, value):
    run = Run.create(tmp_path, "a", {"constants": {**{c.name: c.default for c in CONSTANTS}, name: value}})
    with pytest.raises(RunError, match=rf"says that {name} is {value!r}, which is no (int|bool|str): .* damaged"):
        resumed(read_settings(SCRIPT, ["--resume", str(run.path)]))


def test_resume_says_which_constants_of_the_script_do_not_count(tmp_path, capsys):
    run = Run.create(tmp_path, "a", {"constants": {"RESUME": "", "EPOCHS": 5, "SEED": 3}})
    resumed(settings({"RESUME"}, RESUME=str(run.path), EPOCHS=9, SEED=3))
    said = "note: the run goes on with its own constants, not the script's (in brackets): EPOCHS 5 (9)\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("typed", [(), ("SCHEDULE",)])
@pytest.mark.parametrize("schedule, says", [
    ("cosine", "note: SCHEDULE cosine now stretches over 9 epochs; the learning rate goes on from where"),
    ("plateau", ""), ("constant", "")])
def test_more_epochs_under_a_falling_schedule_are_a_jump_and_said_so(tmp_path, capsys, schedule, says, typed):
    run = Run.create(tmp_path, "a", {"constants": {"RESUME": "", "EPOCHS": 5, "SCHEDULE": schedule}})
    resumed(settings({"RESUME", "EPOCHS", *typed}, RESUME=str(run.path), EPOCHS=9, SCHEDULE=schedule))
    said = capsys.readouterr().out
    assert says in said and bool(said) == bool(says)


@pytest.mark.parametrize("policy, says", [
    ("trivial", "note: PLAIN_SHARE 0.1 now leaves the last 0.9 of 9 epochs without POLICY trivial, which is on until "
     "then\n"), ("", "")])
def test_more_epochs_bring_a_policy_back_and_it_is_said_so(tmp_path, capsys, policy, says):
    begun = {"RESUME": "", "EPOCHS": 5, "SCHEDULE": "plateau", "POLICY": policy, "PLAIN_SHARE": 0.1}
    run = Run.create(tmp_path, "a", {"constants": begun})
    resumed(settings({"RESUME", "EPOCHS"}, **{**begun, "RESUME": str(run.path), "EPOCHS": 9}))
    assert capsys.readouterr().out == says


def test_resume_of_a_run_that_cannot_go_on_is_refused(tmp_path, data, make_model):
    run = open_run(settings(RESUME="", RUN_FOLDER=str(tmp_path)), data, make_model())

    def again(epochs):
        return open_run(settings(RESUME=str(run.path), EPOCHS=epochs), data, make_model())

    run.save_state({}, {"history": [{"epoch": 1}] * 3})
    with pytest.raises(RunError, match="already has 3 epochs; to train on, give it more: --epochs 6"):
        again(2)
    again(3)                                            # killed before the test set was read: that is still to come
    run.write_results({"epochs": 2})                    # of a training that was then made longer
    again(3)
    run.write_results({"epochs": 3})
    with pytest.raises(RunError, match="already has 3 epochs"):
        again(3)
    assert again(4).config["constants"]["EPOCHS"] == 4
    run.write_history([{"epoch": 1}])
    (run.path / "state.safetensors").unlink()
    with pytest.raises(RunError, match=r"state\.safetensors is gone, so the run can't go on"):
        again(4)


def test_resume_on_other_data_is_refused(tmp_path, data, make_model):
    run = open_run(settings(RESUME="", RUN_FOLDER=str(tmp_path)), data, make_model())
    assert run.path.name == "bright-001"
    assert json.loads((run.path / "config.json").read_text(encoding="utf-8"))["data"]["name"] == "bright"
    again = settings(RESUME=str(run.path), RUN_FOLDER=str(tmp_path), EPOCHS=9)
    assert open_run(again, data, make_model()).path == run.path
    assert resumed(settings(RESUME=str(run.path), EPOCHS=5)).EPOCHS == 9, "the next resume goes on as this one"
    assert Run(run.path).config["model"] == make_model().get_config() | {"image_shape": [6, 10, 3]}
    data.train.images[0, 0, 0, 0] ^= 1
    with pytest.raises(RunError, match="other data"):
        open_run(again, data, make_model())


# ------------------------------------------------------------------------------------------ runs that were stopped
def begin(folder, data, make_model, **changes):
    """Begins a run of these constants, as a script does."""
    return open_run(settings(**{"RESUME": "", "RUN_FOLDER": str(folder), "EPOCHS": 5, **changes}), data, make_model())


def test_the_same_command_finds_the_run_that_was_stopped_and_begins_another(tmp_path, data, make_model, capsys):
    stopped = begin(tmp_path, data, make_model)
    stopped.save_state({}, {})
    stopped.release()
    again = begin(tmp_path, data, make_model)
    said = capsys.readouterr().out
    assert said.startswith(f"note: {stopped.path} was begun with the same constants and data, and stopped before ")
    assert said.endswith(f"{stopped.resume_command}\n") and again.path.name == "bright-002"


def test_a_run_that_was_made_longer_and_stopped_is_found_too(tmp_path, data, make_model, capsys):
    run = begin(tmp_path, data, make_model)
    run.save_state({}, {"history": []})
    run.write_results({"epochs": 2})
    for rows in (2, 3):
        run.write_history([{"epoch": number} for number in range(rows)])
        run.release()
        begin(tmp_path, data, make_model).release()
        assert (f"note: {run.path} was begun" in capsys.readouterr().out) == (rows == 3)


def test_an_idle_flag_is_refused_on_the_way_too(tmp_path):
    begun = {**{c.name: c.default for c in CONSTANTS}, "SCHEDULE": "cosine"}
    run = Run.create(tmp_path, "a", {"constants": begun})
    with pytest.raises(ValueError, match="PATIENCE 3 has no effect with SCHEDULE 'cosine'"):
        resumed(read_settings(SCRIPT, ["--resume", str(run.path), "--patience", "3"]))


@pytest.mark.parametrize("why", ["nothing saved", "finished", "other constants", "other data", "damaged"])
def test_no_other_run_is_pointed_to(tmp_path, data, make_model, capsys, why):
    run = begin(tmp_path, data, make_model)
    if why != "nothing saved":
        run.save_state({}, {})
    if why == "finished":
        run.write_results({"epochs": 5})
    if why == "other data":
        data.train.labels[0] += 1
    if why == "damaged":
        (run.path / "config.json").write_text("{", encoding="utf-8")
    run.release()
    begin(tmp_path, data, make_model, EPOCHS=6 if why == "other constants" else 5)
    assert capsys.readouterr().out == ""


def test_a_run_in_use_is_not_pointed_to_and_cannot_be_resumed(tmp_path, data, make_model, capsys):
    run = begin(tmp_path, data, make_model)
    run.save_state({}, {"history": []})
    run.release()
    user = hold(run.path)
    try:
        begin(tmp_path, data, make_model).release()
        assert capsys.readouterr().out == ""
        config = (run.path / "config.json").read_bytes()
        with pytest.raises(RunError, match=re.escape(f"another training is using {run.path} right now")):
            begin(tmp_path, data, make_model, RESUME=str(run.path), EPOCHS=9)
        assert (run.path / "config.json").read_bytes() == config
    finally:
        user.communicate()
    begin(tmp_path, data, make_model, RESUME=str(run.path)).release()
