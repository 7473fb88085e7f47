"""The installation: facts of this machine, and findings about pretended ones."""
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

import pytest

from vision_transformer import installation
from vision_transformer.adapters import Adapter, Answer
from vision_transformer.installation import PLUGIN, Facts, Need, check, findings

ROOT = Path(__file__).parents[1]
HERE = "python_version >= '3'"
ELSEWHERE = "python_version < '3'"

TENSORFLOW = Need("tensorflow-cpu", "tensorflow-cpu==2.10.0", "2.10.0", True)
DIRECTML = Need(PLUGIN, "tensorflow-directml-plugin==0.4.0.dev230202", "0.4.0.dev230202", True)
NUMPY = Need("numpy", "numpy>=1.20,<2", "1.26.4", True)
PROTOBUF = Need("protobuf", "protobuf>=3.9.2,<3.20", "3.19.6", True)
OLD = [TENSORFLOW, DIRECTML, NUMPY, PROTOBUF]                                 # the DirectML stack, all in order
MODERN = [Need("tensorflow-cpu", "tensorflow-cpu>=2.21", "2.21.0", True)]
WORKS = Answer("2.10.0", "2.10.0", directml=True)


def facts(needs=OLD, python="3.10.11", bits=64, system="Windows", machine="AMD64", also=None, **wsl):
    """Facts of a pretended machine, where needs are installed as they say, and the packages of `also`."""
    installed = {"packaging": "26.3", **{need.name: need.version for need in needs if need.version}, **(also or {})}
    return Facts(python, bits, system, "10.0.22631", machine, "AMD Ryzen 7", installed, needs, **wsl)


@pytest.fixture(autouse=True)
def _python(monkeypatch):
    """A Python that is quickly typed, in the project's folder."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv" / "python"))


PIP = str(Path(".venv") / "python") + " -m pip"


# ------------------------------------------------------------------------------------------ facts
def test_gather_tells_of_this_machine():
    here, names = installation.gather(), {d.metadata["Name"]: d.version for d in metadata.distributions()}
    assert here.python == ".".join(map(str, sys.version_info[:3]))
    assert here.bits == (64 if sys.maxsize > 2 ** 32 else 32)
    assert here.system in {"Linux": ("Linux", "WSL"), "Windows": ("Windows",), "Darwin": ("macOS",)}[platform.system()]
    assert here.machine == platform.machine()
    assert here.installed["numpy"] == names["numpy"] and here.installed["opt-einsum"]
    assert here.dxg == Path("/dev/dxg").exists()


def test_every_requirement_is_met_where_the_tests_run():
    here = installation.gather()
    assert [need.problem for need in here.needs if not need.fits] == []
    own = [need.name for need in here.needs if not need.by]
    assert (PLUGIN in own) == (PLUGIN in here.installed) == (sys.version_info < (3, 11) and here.system != "macOS")
    assert {"safetensors", "scikit-learn", "packaging"} <= set(own)
    assert "keras" in {need.name for need in here.needs if need.by.startswith("tensorflow")}


def test_of_two_by_one_name_the_first_counts_as_in_an_import(monkeypatch, tmp_path):
    folder = tmp_path / "NumPy-9.9.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: NumPy\nVersion: 9.9\n", encoding="utf-8")
    (tmp_path / "~umpy-1.0.dist-info").mkdir()                          # what pip leaves where it can't delete
    monkeypatch.syspath_prepend(tmp_path)
    assert installation.gather().installed["numpy"] == "9.9"


def test_requirements_are_the_clones():
    lines = installation.requirements()
    assert "packaging>=20" in lines and any(line.startswith(PLUGIN + "==") for line in lines)
    assert not [line for line in lines if line.startswith("#")]


def test_requirements_of_an_installed_package_are_in_its_metadata(monkeypatch, tmp_path):
    monkeypatch.setattr(installation, "PINS", tmp_path / "requirements.txt")
    monkeypatch.setattr(metadata, "requires", {"vision-transformer-directml": ["numpy<2"]}.__getitem__)
    assert installation.requirements() == ["numpy<2"]


@pytest.mark.parametrize("release, dxg, system", [
    ("5.15.153.1-microsoft-standard-WSL2", True, "WSL"), ("4.4.0-19041-Microsoft", False, "WSL"),
    ("6.1.21-my-own-kernel", True, "WSL"), ("6.8.0-45-generic", False, "Linux")])
def test_wsl_is_told_from_linux(monkeypatch, release, dxg, system):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(installation.Path, "exists", lambda path: dxg and path.as_posix() == "/dev/dxg")
    here = installation.gather()
    assert (here.system, here.release, here.dxg, here.d3d12) == (system, release, dxg, False)


@pytest.mark.parametrize("cpuinfo, processor, name", [
    ("processor\t: 0\nmodel name\t: AMD Ryzen 7\nflags\t: fpu\nmodel name\t: x", "x86_64", "AMD Ryzen 7"),
    ("processor\t: 0\nBogoMIPS\t: 48.00\n", "aarch64", "aarch64"),
    (OSError("no such file"), "Intel64 Family 6, GenuineIntel", "Intel64 Family 6, GenuineIntel"),
    (OSError("no such file"), "", "arm64"),
])
def test_cpu_name(monkeypatch, cpuinfo, processor, name):
    def read_text(path, **how):
        assert path.as_posix() == "/proc/cpuinfo"
        if isinstance(cpuinfo, OSError):
            raise cpuinfo
        return cpuinfo
    monkeypatch.setattr(installation.Path, "read_text", read_text)
    monkeypatch.setattr(platform, "processor", lambda: processor)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert installation.cpu_name() == name


@pytest.mark.parametrize("line, installed, need", [
    (f"numpy>=1.20,<2 ; {HERE}", {"numpy": "1.26.4"}, ("numpy", "numpy>=1.20,<2", "1.26.4", True)),
    ("numpy>=1.20,<2", {"numpy": "2.2.6"}, ("numpy", "numpy>=1.20,<2", "2.2.6", False)),
    ("numpy>=1.20,<2", {"numpy": "2.0.0rc1"}, ("numpy", "numpy>=1.20,<2", "2.0.0rc1", False)),
    ("keras>=3", {"keras": "3.16.0rc1"}, ("keras", "keras>=3", "3.16.0rc1", True)),
    ("protobuf (<3.20,>=3.9.2)", {}, ("protobuf", "protobuf<3.20,>=3.9.2", "", False)),
    ("Opt_Einsum>=2.3.2", {"opt-einsum": "3.4.0"}, ("opt-einsum", "Opt_Einsum>=2.3.2", "3.4.0", True)),
    ("x==0.4.0.dev230202", {"x": "0.4.0.dev230202+emulated"},
     ("x", "x==0.4.0.dev230202", "0.4.0.dev230202+emulated", True)),
    ("tensorflow-cpu>=2.21", {"tensorflow": "2.22.0"}, ("tensorflow", "tensorflow-cpu>=2.21", "2.22.0", True)),
    ("tensorflow-cpu>=2.21", {"tensorflow": "2.16.1"}, ("tensorflow", "tensorflow-cpu>=2.21", "2.16.1", False)),
])
def test_check(line, installed, need):
    assert check([line], installed, "") == [Need(*need)]


def test_check_leaves_out_what_does_not_apply():
    assert check([f"numpy<2; {ELSEWHERE}", "nvidia-cublas; extra == 'and-cuda'"], {}) == []


def test_a_variant_is_none_where_the_plugin_asks():
    assert not check(["tensorflow-cpu (==2.10.0)"], {"tensorflow": "2.10.0"}, f"{PLUGIN} 0.4")[0].version


def test_with_the_plugin_another_tensorflow_is_none():
    [needed, plugin] = check(["tensorflow-cpu==2.10.0", f"{PLUGIN}==0.4"], {"tensorflow": "2.10.0", PLUGIN: "0.4"})
    assert needed.problem == "tensorflow-cpu is missing, but this project needs tensorflow-cpu==2.10.0" and plugin.fits


@pytest.mark.parametrize("platform_is, text", [
    ("linux", ''' -m pip install "numpy>=1.20,<2" a==1.0 "b[c]!=2"'''),
    ("win32", ''' -m pip install "numpy>=1.20,<2" a==1.0 "b[c]!=2"''')])
def test_a_pip_command_can_be_pasted(monkeypatch, platform_is, text):
    monkeypatch.setattr(sys, "platform", platform_is)
    monkeypatch.setattr(sys, "executable", str(Path.cwd() / "my venv" / "python"))
    command = installation.pip("install", "numpy>=1.20,<2", "a==1.0", "b[c]!=2")
    quote = "'" if platform_is == "linux" else '"'
    assert command == f"{quote}{Path('my venv') / 'python'}{quote}{text}"
    assert shlex.split(command)[-3:] == ["numpy>=1.20,<2", "a==1.0", "b[c]!=2"]


def test_a_python_elsewhere_is_written_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert installation.python() == str(tmp_path / "python")


# ------------------------------------------------------------------------------------------ findings
@pytest.mark.parametrize("machine, answer", [
    (facts(), WORKS._replace(gpus=["DML"], adapters=[Adapter(0, "NVIDIA TITAN V")])),
    (facts(system="WSL", machine="x86_64"), WORKS._replace(gpus=["DML"], adapters=[Adapter(0)])),
    (facts(system="Linux", machine="x86_64"), WORKS._replace(gpus=["DML"], adapters=[Adapter(0)])),     # emulated
    (facts(MODERN, "3.11.7", system="Linux"), Answer("2.21.0", "3.15.1", gpus=["NVIDIA A100"])),
])
def test_nothing_is_wrong_where_a_gpu_works(machine, answer):
    assert findings(machine, answer, answer) == []


def only(machine, answer, wants_gpu=True):
    """The one finding."""
    [finding] = findings(machine, answer, answer, wants_gpu)
    return finding


NUMPY_2 = NUMPY._replace(version="2.2.6", fits=False)
NO_PLUGIN = DIRECTML._replace(version="", fits=False)
INNER = Need("protobuf", "protobuf<8.0.0,>=6.31.1", "4.25.3", False, "tensorflow-cpu 2.21.0")
CPU_ONLY = {"tensorflow": "2.10.0", "tensorflow-gpu": "2.10.0"}


@pytest.mark.parametrize("machine, answer, pieces, cause, mend", [
    (facts([TENSORFLOW, NO_PLUGIN]), WORKS, [PLUGIN],
     "tensorflow-directml-plugin is missing, but this project needs tensorflow-directml-plugin==0.4.0.dev230202",
     f"{PIP} install tensorflow-directml-plugin==0.4.0.dev230202"),
    (facts([*MODERN, NUMPY_2, Need("pillow", "pillow>=9.1", "", False)], "3.11.7"), Answer("2.21.0", gpus=["A100"]),
     ["numpy", "pillow"],
     "numpy is 2.2.6, but this project needs numpy>=1.20,<2; pillow is missing, but this project needs pillow>=9.1",
     f'{PIP} install "numpy>=1.20,<2" "pillow>=9.1"'),
    (facts([*MODERN, INNER], "3.11.7", "Linux"), Answer(), ["protobuf"],
     "protobuf is 4.25.3, but tensorflow-cpu 2.21.0 needs protobuf<8.0.0,>=6.31.1",
     f'{PIP} install "protobuf<8.0.0,>=6.31.1"'),
    (facts([])._replace(installed={}), Answer(), ["packaging"],
     "the requirements are not installed in this Python", f"{PIP} install -r requirements.txt"),
    (facts(also=CPU_ONLY), WORKS._replace(gpus=["DML"]), ["tensorflow", "tensorflow-cpu", "tensorflow-gpu"],
     "tensorflow and tensorflow-cpu and tensorflow-gpu: variants of TensorFlow overwrite each other's files; there "
     "should be tensorflow-cpu==2.10.0 only",
     f"{PIP} uninstall -y tensorflow tensorflow-cpu tensorflow-gpu\n"
     f"{PIP} install tensorflow-cpu==2.10.0 tensorflow-directml-plugin==0.4.0.dev230202"),
    (facts(MODERN, "3.11.7", also={"tensorflow": "2.20.0"}), Answer("2.21.0", gpus=["A100"]),
     ["tensorflow", "tensorflow-cpu"], "tensorflow and tensorflow-cpu: variants of TensorFlow overwrite each other's "
     "files; there should be tensorflow-cpu>=2.21 only",
     f'{PIP} uninstall -y tensorflow tensorflow-cpu\n{PIP} install "tensorflow-cpu>=2.21"'),
])
def test_packages(machine, answer, pieces, cause, mend):
    finding = only(machine, answer)
    assert finding.wrong and list(finding.pieces) == pieces
    assert (finding.cause, finding.mend) == (cause, mend)


@pytest.mark.parametrize("machine", [
    facts(also={"tensorflow-intel": "2.10.0"}),
    facts(MODERN, "3.11.7", also={"tensorflow": "2.21.0"}),
])
def test_variants_that_get_along(machine):
    assert findings(machine, *[WORKS._replace(gpus=["DML"])] * 2) == []


def test_with_the_plugin_another_tensorflow_alone_has_to_go_first():
    machine = facts([TENSORFLOW._replace(version="", fits=False), DIRECTML], also={"tensorflow": "2.10.0"})
    first, second = findings(machine, WORKS._replace(gpus=["A100"]), WORKS)
    assert first.mend.startswith(f"{PIP} uninstall -y tensorflow\n")
    assert second.cause == "tensorflow-cpu is missing, but this project needs tensorflow-cpu==2.10.0"


def test_a_package_that_both_ask_for_is_named_once():
    asked_twice = NUMPY_2._replace(text="numpy<1.27", by="tensorflow-cpu 2.10.0")
    assert only(facts([NUMPY_2, asked_twice]), WORKS._replace(gpus=["DML"])).mend == f'{PIP} install "numpy>=1.20,<2"'
    answer = WORKS._replace(failure="_ARRAY_API not found", gpus=["DML"])
    assert only(facts([TENSORFLOW, NUMPY, asked_twice._replace(fits=True)]), answer).mend.endswith(' "numpy>=1.20,<2"')


def test_what_only_tensorflow_asks_for_is_a_note_while_it_loads():
    assert not only(facts([*MODERN, INNER], "3.11.7"), Answer("2.21.0", gpus=["A100"])).wrong


@pytest.mark.parametrize("failure, log, needs, piece, meaning, mend", [
    ("TypeError: Unable to convert function return value to a Python type! The signature was\n\t() -> handle", "",
     [TENSORFLOW, NUMPY], "numpy", "compiled for numpy 1", f'{PIP} install --force-reinstall "numpy>=1.20,<2"'),
    ("ImportError: numpy.core.umath failed to import", "AttributeError: _ARRAY_API not found", [TENSORFLOW, NUMPY],
     "numpy", "compiled for numpy 1", f'{PIP} install --force-reinstall "numpy>=1.20,<2"'),
    ("TypeError: Descriptors cannot be created directly.\nIf this call came from a _pb2.py file, ...", "", OLD,
     "protobuf", "with this protobuf", f'{PIP} install --force-reinstall "protobuf>=3.9.2,<3.20"'),
    ("ImportError: cannot import name 'runtime_version' from 'google.protobuf' (/x/google/protobuf/__init__.py)", "",
     [*MODERN, INNER._replace(version="7.36.2", fits=True)], "protobuf", "with this protobuf",
     f'{PIP} install --force-reinstall "protobuf<8.0.0,>=6.31.1"'),
    (r"NotFoundError: C:\x\site-packages\tensorflow-plugins\tfdml_plugin.dll not found", "", OLD, PLUGIN, "2.10.0 only",
     f"{PIP} install --force-reinstall tensorflow-directml-plugin==0.4.0.dev230202 tensorflow-cpu==2.10.0"),
    ("NotFoundError: /x/tensorflow-plugins/libtfdml_plugin.so: undefined symbol: _ZN3Eigen", "", OLD, PLUGIN,
     "2.10.0 only",
     f"{PIP} install --force-reinstall tensorflow-directml-plugin==0.4.0.dev230202 tensorflow-cpu==2.10.0"),
    ("ImportError: DLL load failed while importing _pywrap_tensorflow_internal: A dynamic link library (DLL) ...", "",
     OLD, "TensorFlow", "Visual C++", "install https://aka.ms/vs/17/release/vc_redist.x64.exe and open a new terminal"),
    ("(signal SIGILL)", "", OLD, "processor", "AVX", "train on another computer"),
    ("(exit code 0xC000001D)", "", OLD, "processor", "AVX", "train on another computer"),
    ("The TensorFlow library was compiled to use AVX2 instructions, but these aren't available on your machine. "
     "(signal SIGABRT)", "", OLD, "processor", "AVX", "train on another computer"),
    ("HRESULT failed with 0x80070057: DXCoreCreateAdapterFactory (signal SIGABRT)", "", OLD, "DirectML", "Direct3D",
     "update the graphics driver in Windows"),
])
def test_known_failures_of_the_import(failure, log, needs, piece, meaning, mend):
    finding = only(facts(needs), Answer(failure=failure, log=log))
    first, second = finding.cause.split("\n")
    assert finding.wrong and list(finding.pieces) == ["TensorFlow", piece]
    assert first == "TensorFlow can't be imported: " + failure.split("\n")[0]
    assert meaning in second
    if mend.startswith(PIP):
        assert sorted(finding.mend.split()) == sorted(mend.split())
    else:
        assert finding.mend.startswith(mend)


def test_a_mend_is_said_once():
    packages, failure = findings(facts([TENSORFLOW, NUMPY_2]), Answer(), Answer(failure="_ARRAY_API not found"))
    assert packages.mend == f'{PIP} install "numpy>=1.20,<2"'
    assert "compiled for numpy 1" in failure.cause and failure.mend == ""


def test_an_unknown_failure_is_shown():
    finding = only(facts(), Answer(failure="RuntimeError: never seen before"))
    assert finding.wrong and finding.cause == "TensorFlow can't be imported: RuntimeError: never seen before"


def test_a_failure_after_the_import_is_told_from_one_of_it():
    answer = WORKS._replace(gpus=["DML"], failure="HRESULT failed with 0x887A0005 (exit code 3)")
    assert only(facts(), answer).cause.startswith("TensorFlow fails: HRESULT failed with 0x887A0005")


def test_no_tensorflow_is_a_missing_package_only():
    missing, answer = TENSORFLOW._replace(version="", fits=False), Answer(failure="No module named 'tensorflow'")
    assert only(facts([missing]), answer).pieces == ["tensorflow-cpu"]


LINUX = {"system": "Linux", "machine": "x86_64"}
WSL = {"system": "WSL", "machine": "x86_64"}
ARM = [Need("tensorflow", "tensorflow>=2.16", "2.21.0", True)]
NO_DIRECTML = WORKS._replace(directml=False, log="W x] Could not load dynamic library 'libdirectml.so'; dlerror: "
                             "libd3d12.so: cannot open shared object file\nW x] Could not load DirectML.")
REFUSED = WORKS._replace(log="W x] Could not create DirectML device for adapter: Intel(R) HD Graphics 5500")


@pytest.mark.parametrize("machine, answer, piece, wrong, cause, mend", [
    (facts(bits=32), Answer(failure="No module named 'tensorflow'"), "Python", True, "64-bit Python only", "x86-64"),
    (facts([], "3.12.1", machine="ARM64"), Answer(), "Python", True, "none of us has tried", "x86-64 Python 3.10"),
    (facts(ARM, "3.12.1", system="macOS", machine="arm64"), Answer("2.21.0"), "system", False, "not of macOS", ""),
    (facts(ARM, "3.12.1", system="Linux", machine="aarch64"), Answer("2.21.0"), "system", False, "not of Linux", ""),
    (facts(ARM, "3.12.1", system="WSL", machine="aarch64"), Answer("2.21.0"), "processor", False, "x86-64 Python", ""),
    (facts(MODERN, "3.11.7", **LINUX), Answer("2.21.0"), "system", False, "Windows and WSL 2", ""),
    (facts(**LINUX), NO_DIRECTML, "system", False, "Windows and WSL 2", ""),
    (facts(MODERN, "3.13.0rc1"), Answer("2.21.0"), "Python", False, "Python 3.10 and older",
     "py -3.10 -m venv .venv310\n.venv310\\Scripts\\python -m pip install -r requirements.txt"),
    (facts(MODERN, "3.11.7", **WSL), Answer("2.21.0"), "Python", False, "Python 3.10 and older",
     "python3.10 -m venv .venv310\n.venv310/bin/python -m pip install -r requirements.txt"),
    (facts(**WSL), NO_DIRECTML, "system", True, "/dev/dxg is missing", "wsl --update"),
    (facts(**WSL, dxg=True), NO_DIRECTML, "system", True, "libd3d12.so is missing", "wsl --update"),
    (facts(**WSL, dxg=True, d3d12=True), NO_DIRECTML, "DirectML", True, "libd3d12.so: cannot open", "LD_LIBRARY_PATH"),
    (facts(), NO_DIRECTML, "DirectML", True, "DirectML can't be loaded",
     f"{PIP} install --force-reinstall --no-deps tensorflow-directml-plugin==0.4.0.dev230202"),
    (facts(), WORKS, "DirectML", False, "finds no adapter", "update the graphics driver"),
    (facts(), REFUSED, "DirectML", False, "it can't use Intel(R) HD Graphics 5500", "update the graphics driver"),
])
def test_why_there_is_no_gpu(machine, answer, piece, wrong, cause, mend):
    finding = only(machine, answer)
    assert (list(finding.pieces), finding.wrong) == ([piece], wrong)
    assert cause in finding.cause and mend in finding.mend and bool(mend) == bool(finding.mend)


def test_who_wants_the_cpu_is_not_told_that_directml_is_wrong():
    assert not only(facts(**WSL), NO_DIRECTML, wants_gpu=False).wrong


def test_findings_judge_the_machine_by_all_adapters_and_tensorflow_by_the_chosen_one():
    everything = WORKS._replace(gpus=["DML"] * 2, adapters=[Adapter(0), Adapter(1)], failure="HRESULT failed with 0x1")
    assert findings(facts(), everything, WORKS) == []
