"""python -m vision_transformer doctor: pretended machines, this one, really broken ones, and the emulated device."""
import os
import re
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest
import tensorflow as tf
from test_installation import MODERN, NO_PLUGIN, NUMPY, OLD, WORKS, facts

from vision_transformer import adapters, installation
from vision_transformer.__main__ import main
from vision_transformer.adapters import Adapter, Answer, selected
from vision_transformer.installation import PLUGIN

ROOT = Path(__file__).parents[1]
TITAN, INTEL = "NVIDIA TITAN V", "Intel(R) UHD Graphics 770"
BOTH = [Adapter(0, TITAN, "31.0.15.3623"), Adapter(1, INTEL)]
DIRECTML_STACK = sys.version_info < (3, 11)


# ------------------------------------------------------------------------------------------ pretended machines
@pytest.fixture
def doctor(monkeypatch, capsys):
    """Runs the command on a pretended machine: gives exit code, the fact lines that are marked, and all it printed."""
    def examine(machine, answer, choice, counted=None):
        def ask(environment, time_limit):
            if environment.get("DML_VISIBLE_DEVICES") is None:
                return answer
            visible = [(counted or answer.adapters)[number]
                       for number in selected(environment["DML_VISIBLE_DEVICES"], len(counted or answer.adapters))]
            visible = [adapter for adapter in visible if adapter in answer.adapters]
            return answer._replace(adapters=visible, gpus=["DML"] * len(visible))

        monkeypatch.setattr(installation, "gather", lambda: machine)
        monkeypatch.setattr(adapters, "ask_tensorflow", ask)
        monkeypatch.delenv("DML_VISIBLE_DEVICES", raising=False)
        if choice is not None:
            monkeypatch.setenv("DML_VISIBLE_DEVICES", choice)
        code = main(["doctor"])
        output = capsys.readouterr().out
        return code, re.findall(r"^! (\S+)", output, re.MULTILINE), output
    return examine


TWO = WORKS._replace(gpus=["DML", "DML"], adapters=BOTH)


def test_the_whole_output(doctor, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(Path.cwd() / "python"))
    monkeypatch.setattr(os, "cpu_count", lambda: 13)
    numpy = NUMPY._replace(version="2.2.6", fits=False)
    assert doctor(facts([*OLD[:2], numpy]), TWO, "1")[2] == f"""\
asking TensorFlow what it finds, which takes some seconds ...

  Python                      3.10.11, 64 bits: python
  system                      Windows 10.0.22631
  processor                   AMD Ryzen 7, AMD64, 13 logical cores
  tensorflow-cpu              2.10.0
  tensorflow-directml-plugin  0.4.0.dev230202
! numpy                       2.2.6; needed is numpy>=1.20,<2
  TensorFlow                  loads: 2.10.0 with Keras 2.10.0
  DirectML                    loads; adapters: 2
  adapter 0                   {TITAN}, driver 31.0.15.3623
  adapter 1                   {INTEL}
  DML_VISIBLE_DEVICES         1 selects adapter 1 ({INTEL})

wrong  numpy is 2.2.6, but this project needs numpy>=1.20,<2
mend   python -m pip install "numpy>=1.20,<2"

trainings run on DirectML GPU 0: {INTEL} (DML_VISIBLE_DEVICES=1)
"""


@pytest.mark.parametrize("machine, answer, choice, code, marked, verdict", [
    (facts(), TWO, "0", 0, [], f"trainings run on DirectML GPU 0: {TITAN} (DML_VISIBLE_DEVICES=0)"),
    (facts(), TWO, "1,0", 0, [], f"trainings run on DirectML GPU 0: {INTEL} (DML_VISIBLE_DEVICES=1,0)"),
    (facts(), TWO, "", 0, [], f"trainings run on DirectML GPU 0: {TITAN}"),
    (facts(), TWO, "-1", 0, [], "trainings run on the CPU, as DML_VISIBLE_DEVICES=-1 wants"),
    (facts(), TWO, "GPU:0", 1, ["DML_VISIBLE_DEVICES"], "no training starts while DML_VISIBLE_DEVICES is GPU:0"),
    (facts(), TWO, "2", 1, ["DML_VISIBLE_DEVICES"], "no training starts while DML_VISIBLE_DEVICES is 2"),
    (facts(), WORKS, "0", 0, [], "trainings run on the CPU: no DirectML adapter was found"),
    (facts(), WORKS, "2", 0, [], "trainings run on the CPU: no DirectML adapter was found"),
    (facts(), WORKS, "GPU:0", 1, ["DML_VISIBLE_DEVICES"], "no training starts while DML_VISIBLE_DEVICES is GPU:0"),
    (facts(system="WSL"), WORKS._replace(directml=False), "0", 1, ["system"],
     "trainings run on the CPU: no DirectML adapter was found"),
    (facts(system="WSL"), WORKS._replace(directml=False), "-1", 0, [],
     "trainings run on the CPU, as DML_VISIBLE_DEVICES=-1 wants"),
    (facts(), WORKS._replace(directml=False), "0", 1, ["DirectML"],
     "trainings run on the CPU: no DirectML adapter was found"),
    (facts(MODERN, "3.11.7"), Answer("2.21.0", "3.15.1"), "0", 0, [], "trainings run on the CPU: no GPU was found"),
    (facts(MODERN, "3.11.7"), Answer("2.21.0", "3.15.1", gpus=["NVIDIA A100", "NVIDIA T4"]), "GPU:0", 0, [],
     "trainings run on GPU 0: NVIDIA A100"),
    (facts([*OLD[:2], NUMPY._replace(version="", fits=False)]), WORKS, "0", 1, ["numpy"],
     "no training can run before what is missing is installed"),
    (facts([OLD[0], NO_PLUGIN]), WORKS._replace(directml=None), "0", 1, [PLUGIN],
     "trainings run on the CPU: no GPU was found"),
    (facts(), Answer(failure="(signal SIGILL)"), "0", 1, ["processor", "TensorFlow"],
     "no training can run before TensorFlow loads"),
    (facts(), TWO._replace(failure="HRESULT failed with 0x1"), "0", 1, ["TensorFlow", "DirectML"],
     "no training can run on a GPU that TensorFlow fails on"),
])
def test_verdicts(doctor, machine, answer, choice, code, marked, verdict):
    given, lines, output = doctor(machine, answer, choice)
    assert (given, lines, output.splitlines()[-1]) == (code, marked, verdict)
    assert ("\nwrong  " in output) == bool(code)


@pytest.mark.parametrize("machine, answer, choice, line", [
    (facts(), TWO, None,
     f"DML_VISIBLE_DEVICES         not set, so the scripts take 0: 0 selects adapter 0 ({TITAN})"),
    (facts(), TWO, "0", f"DML_VISIBLE_DEVICES         0 selects adapter 0 ({TITAN})"),
    (facts(MODERN, "3.11.7"), Answer("2.21.0"), "1", f"1 has no effect without {PLUGIN}"),
    (facts(also={"tensorflow-gpu": "2.9.0"}), TWO, "0", "! tensorflow-gpu              2.9.0"),
])
def test_lines(doctor, machine, answer, choice, line):
    assert line in doctor(machine, answer, choice)[2]


def test_an_adapter_that_directml_leaves_out_but_the_variable_counts(doctor):
    """0 is too old a GPU: DirectML lists the other one as its first."""
    old, only = Adapter(0, "NVIDIA GeForce GTX 680"), Adapter(0, INTEL)
    answer = WORKS._replace(gpus=["DML"], adapters=[only])
    code, marked, output = doctor(facts(), answer, "1", counted=[old, only])
    assert (code, marked) == (0, []) and f"DML_VISIBLE_DEVICES=1 really selects {INTEL}: DirectML leaves out" in output
    assert output.endswith(f"trainings run on DirectML GPU 0: {INTEL} (DML_VISIBLE_DEVICES=1)\n")
    code, marked, output = doctor(facts(), answer, "0", counted=[old, only])
    assert (code, marked) == (1, ["DirectML"]) and "DML_VISIBLE_DEVICES=0 really selects nothing" in output
    assert output.endswith("trainings run on the CPU: no DirectML adapter was found\n")


# ------------------------------------------------------------------------------------------ real machines
def test_the_cpu_works_where_the_plugin_ends_the_process(doctor, monkeypatch, capsys):
    """As where Direct3D fails while the plugin loads: -1 is tried, not judged by what fails without it."""
    doctor(facts(), WORKS, "-1")
    aborted = Answer(failure="HRESULT failed with 0x887a0005 (signal SIGABRT)")
    works = WORKS._replace(gpus=[], adapters=[])
    monkeypatch.setattr(adapters, "ask_tensorflow", lambda environment, time_limit: works
                        if environment.get("DML_VISIBLE_DEVICES") == "-1" else aborted)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("\ntrainings run on the CPU, as DML_VISIBLE_DEVICES=-1 wants\n")


def run(python=sys.executable, arguments=(), **environment):
    """Runs the command as a user does, with nothing chosen: exit code, output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DML_VISIBLE", "TF_CPP"))}
    done = subprocess.run([str(python), "-m", "vision_transformer", "doctor", *arguments], cwd=ROOT, check=False,
                          capture_output=True, encoding="utf-8", env={**kept, **environment})
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_this_machine():
    gpus = tf.config.list_physical_devices("GPU")
    code, output = run()
    assert code == 0 and "wrong" not in output
    assert f"loads: {tf.__version__} with Keras {metadata.version('keras')}" in output
    last = output.splitlines()[-1]
    assert last.startswith("trainings run on the CPU: no " if not gpus else "trainings run on ")
    assert ("DirectML" in last) == (PLUGIN in output)


def new_environment(folder) -> Path:
    """Makes an environment of this Python without any package; gives its Python."""
    venv.create(folder, symlinks=os.name != "nt")
    return Path(folder, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))


def test_where_nothing_is_installed(tmp_path):
    code, output = run(new_environment(tmp_path))
    assert code == 1
    assert "wrong  the requirements are not installed in this Python\nmend   " in output
    assert f"{tmp_path}{os.sep}" in output and output.split("mend   ")[1].splitlines()[0].endswith(
        "python -m pip install -r requirements.txt" if os.name != "nt" else
        "python.exe -m pip install -r requirements.txt")
    assert output.endswith("no training can run before TensorFlow loads\n")


def test_without_the_plugin(tmp_path):
    """An environment with links to all that is installed here but the plugin."""
    python = new_environment(tmp_path)
    [packages] = (path for path in tmp_path.rglob("site-packages") if not path.is_symlink())
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.match(r"tensorflow[-_](directml|plugins)|__pycache__", entry.name):
            (packages / entry.name).symlink_to(entry)
    code, output = run(python)
    missing = f"{PLUGIN} is missing, but this project needs {PLUGIN}==0.4.0.dev230202"
    assert (missing in output, code) == ((True, 1) if DIRECTML_STACK else (False, 0))
    assert f"loads: {tf.__version__}" in output and "DirectML  " not in output
    assert output.endswith("trainings run on the CPU: no GPU was found\n")


@pytest.mark.slow
def test_a_package_of_the_wrong_version(tmp_path):
    """Really installs what breaks TensorFlow today: numpy 2 under 2.10, the protobuf of 2.10's time under a new one."""
    name, version, limits, meaning = (
        ("numpy", "2.2.6", "numpy>=1.20,<2", "compiled for numpy 1") if DIRECTML_STACK else
        ("protobuf", "4.25.3", r"protobuf<[\d.]+,>=[\d.]+", "can't be imported with this protobuf"))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path),
                    f"{name}=={version}"], check=True, capture_output=True)
    code, output = run(PYTHONPATH=str(tmp_path))
    assert code == 1
    assert re.search(rf"^! {name} +{re.escape(version)}; needed is {limits}$", output, re.MULTILINE)
    assert re.search(rf'^mend   .* -m pip install "{limits}"$', output, re.MULTILINE)
    assert re.search(rf"^wrong  TensorFlow can't be imported: .+\n       .*{meaning}", output, re.MULTILINE)
    assert output.endswith("no training can run before TensorFlow loads\n")


# ------------------------------------------------------------------------------------------ the emulated device
@pytest.mark.emulator
@pytest.mark.parametrize("devices, choice, code, last", [
    ("", {}, 0, "trainings run on the CPU: no DirectML adapter was found"),
    ("", {"DML_VISIBLE_DEVICES": "GPU:0"}, 1, "no training starts while DML_VISIBLE_DEVICES is GPU:0"),
    (TITAN, {}, 0, f"trainings run on DirectML GPU 0: {TITAN} (DML_VISIBLE_DEVICES=0)"),
    (TITAN, {"DML_VISIBLE_DEVICES": "1"}, 1, "no training starts while DML_VISIBLE_DEVICES is 1"),
    (f"{TITAN};{INTEL}", {"DML_VISIBLE_DEVICES": "1"}, 0,
     f"trainings run on DirectML GPU 0: {INTEL} (DML_VISIBLE_DEVICES=1)"),
    (f"{TITAN};{INTEL}", {"DML_VISIBLE_DEVICES": "99"}, 1, "no training starts while DML_VISIBLE_DEVICES is 99"),
    (f"{TITAN};{INTEL}", {"DML_VISIBLE_DEVICES": "-1"}, 0, "trainings run on the CPU, as DML_VISIBLE_DEVICES=-1 wants"),
])
def test_emulated_adapters(devices, choice, code, last):
    given, output = run(DMLEMU_DEVICES=devices, **choice)
    names = [name for name in devices.split(";") if name]
    assert (given, output.splitlines()[-1]) == (code, last)
    assert re.findall(r"^  adapter \d +(.+), driver", output, re.MULTILINE) == names
    assert f"loads; adapters: {len(names)}" in output


@pytest.mark.emulator
@pytest.mark.parametrize("value", ["", "1,0", "0,0", "-0", "0,,1", "GPU:0", "0,3", " +01 "])
def test_selected_agrees_with_tensorflow(monkeypatch, value):
    names = [TITAN, INTEL, "AMD Radeon VII"]
    monkeypatch.setenv("DMLEMU_DEVICES", ";".join(names))
    answer = adapters.ask_tensorflow({**os.environ, "DML_VISIBLE_DEVICES": value}, 60)
    assert [adapter.name for adapter in answer.adapters] == [names[number] for number in selected(value, 3)]
    assert answer.gpus == ["DML"] * len(answer.adapters) and answer.failure == ""


@pytest.mark.emulator
@pytest.mark.parametrize("value, refused", [("1", False), ("2", True), ("GPU:1", True)])
def test_check_choice_agrees_with_tensorflow(value, refused):
    code = f"from vision_transformer.adapters import check_choice; check_choice({value!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8",
                          env={**os.environ, "DMLEMU_DEVICES": f"{TITAN};{INTEL}"}, check=False)
    assert ("ValueError: DML_VISIBLE_DEVICES=" in done.stderr, done.returncode) == (refused, int(refused))
    assert (f"0 ({TITAN}) and 1 ({INTEL})" in done.stderr) == refused


@pytest.mark.emulator
def test_a_training_refuses_what_selects_nothing_by_mistake(tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / "train_digits.py"), "--run-folder", str(tmp_path)], check=False,
                          capture_output=True, encoding="utf-8",
                          env={**os.environ, "DMLEMU_DEVICES": f"{TITAN};{INTEL}", "DML_VISIBLE_DEVICES": "7"})
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"This machine has adapters 0 ({TITAN}) and 1 ({INTEL}); set DML_VISIBLE_DEVICES to 0, 1, " in done.stderr
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------ --compare, --ops
@pytest.mark.emulator
@pytest.mark.parametrize("fault, code, says", [
    ("", 0, "normal: the GPU's "), ("Softmax:1.001", 1, "NOT EXACT: "), ("Erf:0.5", 1, "WRONG: "),
    ("SoftmaxCrossEntropyWithLogits:1.5", 1, "WRONG: the GPU's losses")])
def test_compare_tells_a_gpu_that_computes_wrongly(fault, code, says):
    given, output = run(arguments=["--compare"], **{"DMLEMU_FAULT": fault} if fault else {})
    assert given == code and output.splitlines()[-1].startswith(says)
    assert re.search(r"^  10 +\d\.\d+ +\d\.\d+ +\de-\d+ +\de-\d+$", output, re.MULTILINE)


def test_compare_without_a_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])
    with pytest.raises(RuntimeError, match="there is no GPU to compare with the CPU"):
        main(["doctor", "--compare"])


def test_ops_of_this_project_and_of_a_users_script(tmp_path, capsys):
    for flags in ([], ["train_digits.py", "--embedding", "hybrid", "--stem-widths", "6", "--mirrored-filters"]):
        assert main(["doctor", "--ops", *flags]) == 0
        assert "train step: everything stays on the GPU" in capsys.readouterr().out
    script = tmp_path / "mine.py"
    script.write_text("""
import numpy as np
from tensorflow import keras
inputs = keras.Input((6, 8))
outputs = keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)))
model = keras.Model(inputs, outputs)
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(np.zeros((9, 6, 8), "float32"), np.zeros(9))
""", encoding="utf-8")
    assert main(["doctor", "--ops", str(script)]) == 1
    output = capsys.readouterr().out
    for says in ("leaves the GPU: Einsum (", "multi_head_attention", "mend: write the product with tf.matmul",
                 "unknown shape: input (", "drop_remainder=True"):
        assert says in output
