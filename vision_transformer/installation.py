"""The installation: what is installed on which machine, what is wrong with it, and how to mend it.

TensorFlow isn't imported here: this file must speak where that fails. Facts are gathered first; findings are functions
of facts alone, so that any machine can be pretended on any other.
"""
from __future__ import annotations

import os
import platform
import re
import shlex
import struct
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, Mapping, NamedTuple, Sequence

try:
    from packaging.requirements import Requirement
except ImportError:                                     # a new environment, where nothing is installed yet
    Requirement = None

if TYPE_CHECKING:
    from .adapters import Answer

PLUGIN = "tensorflow-directml-plugin"
THIS = "vision-transformer-directml"
PINS = Path(__file__).parents[1] / "requirements.txt"
# Each brings a folder `tensorflow`; the one installed last overwrites the others' files.
TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tensorflow-intel", "tensorflow-directml",
               "tensorflow-macos", "tensorflow-rocm", "tf-nightly", "tf-nightly-cpu")
BESIDE_THE_PLUGIN = {"tensorflow-cpu", "tensorflow-intel"}          # on Windows the first only brings the second

# What a failed import says, the piece it is about, what it means, what mends it ("": pip). The first that fits holds.
KNOWN_FAILURES = (
    (r"Unable to convert function return value|_ARRAY_API not found", "numpy",
     "this TensorFlow was compiled for numpy 1 and can't be imported with numpy 2", ""),
    (r"Descriptors cannot be created directly|from 'google\.protobuf'|google\.protobuf.* has no attribute", "protobuf",
     "this TensorFlow can't be imported with this protobuf", ""),
    (r"tfdml_plugin\.(dll|so)", PLUGIN, "the plugin can be loaded by TensorFlow 2.10.0 only", ""),
    (r"DLL load failed", "TensorFlow", "mostly because Microsoft's Visual C++ runtime is missing or old",
     "install https://aka.ms/vs/17/release/vc_redist.x64.exe and open a new terminal"),
    (r"SIGILL|0xC000001D|compiled to use \w+ instructions", "processor",
     "TensorFlow needs a processor with AVX, as made since 2011; this one has none or hides it",
     "train on another computer; in a virtual machine, hand the host's processor through"),
    (r"HRESULT failed with", "DirectML", "Direct3D failed, and then the plugin ends the process",
     "update the graphics driver in Windows (for WSL then also: wsl --update; wsl --shutdown); until then train on the "
     "CPU, with DML_VISIBLE_DEVICES=-1 or, where that fails too, without the plugin"),
)


class Need(NamedTuple):
    """A requirement that applies here, and what is installed of it."""

    name: str
    text: str               # to be given to pip, such as numpy>=1.20,<2
    version: str            # "" where it is missing
    fits: bool
    by: str = ""            # the package that asks for it; "" is this project

    @property
    def problem(self) -> str:
        """What is wrong, in a few words."""
        is_so = f"{self.name} is {self.version}" if self.version else f"{self.name} is missing"
        return f"{is_so}, but {self.by or 'this project'} needs {self.text}"


class Facts(NamedTuple):
    """Python, the machine, and what is installed."""

    python: str
    bits: int
    system: str                     # Windows, WSL, Linux or macOS
    release: str
    machine: str                    # AMD64, x86_64, arm64, ...
    processor: str
    installed: Mapping[str, str]    # distribution's name -> version
    needs: Sequence[Need]
    dxg: bool = False               # WSL's door to the GPU, and the library behind it
    d3d12: bool = False


class Finding(NamedTuple):
    """Something to know; `wrong` where it has to be mended."""

    pieces: Sequence[str]           # names of packages, or Python, system, processor, TensorFlow, DirectML
    wrong: bool
    cause: str
    mend: str = ""                  # what to do; shell commands stand on lines of their own


# ------------------------------------------------------------------------------------------ facts
def gather() -> Facts:
    """The facts of this machine and this Python."""
    installed = {}
    for distribution in metadata.distributions():       # of two by one name, Python imports the first
        name = distribution.metadata["Name"]
        if name:                                        # a half-deleted package has none
            installed.setdefault(normal(name), distribution.version)
    needs = check(requirements(), installed)
    for owner in (*TENSORFLOWS, PLUGIN):
        if owner in installed:
            needs += check(metadata.requires(owner) or (), installed, f"{owner} {installed[owner]}")
    system, dxg = {"Darwin": "macOS"}.get(platform.system(), platform.system()), Path("/dev/dxg").exists()
    if system == "Linux" and (dxg or "microsoft" in platform.release().lower()):
        system = "WSL"
    return Facts(platform.python_version(), struct.calcsize("P") * 8, system,
                 platform.version() if system == "Windows" else platform.release(), platform.machine(), cpu_name(),
                 installed, needs, dxg, Path("/usr/lib/wsl/lib/libd3d12.so").exists())


def requirements() -> list[str]:
    """This project's requirements, a line each: requirements.txt in a clone, else what the installed package says."""
    if PINS.is_file():
        lines = [line.partition("#")[0].strip() for line in PINS.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line and not line.startswith("-")]
    try:
        return metadata.requires(THIS) or []
    except metadata.PackageNotFoundError:
        return []


def check(lines: Iterable[str], installed: Mapping[str, str], by: str = "") -> list[Need]:
    """Requirements, those that apply here -> what is installed of each; [] in an environment without packaging.

    Where the plugin isn't required, any variant of TensorFlow stands for another, such as the one with CUDA.
    """
    wanted = {line: Requirement(line) for line in lines} if Requirement else {}
    here = {line: r for line, r in wanted.items() if r.marker is None or r.marker.evaluate({"extra": ""})}
    plugin, needs = PLUGIN in {normal(r.name) for r in here.values()}, []
    for line, requirement in here.items():
        name = normal(requirement.name)
        variants = TENSORFLOWS if name in TENSORFLOWS and not (plugin or by) else ()
        name = next((n for n in (name, *variants) if n in installed), name)
        version = installed.get(name, "")
        fits = bool(version) and requirement.specifier.contains(version, prereleases=True)
        needs.append(Need(name, re.sub(r"[ ()]", "", line.partition(";")[0]), version, fits, by))
    return needs


def normal(name: str) -> str:
    """A distribution's name as PEP 503 writes it: google_pasta -> google-pasta."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version_of(distribution: str) -> str:
    """The installed version, "" where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:                                          # only Linux has this file, and needs it
        facts = ""
    found = re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def python() -> str:
    """This Python as it is typed in a shell."""
    path = from_here(sys.executable)
    return subprocess.list2cmdline([path]) if sys.platform == "win32" else shlex.quote(path)


def from_here(path) -> str:
    """A path relative to the current folder where it lies below; links are not followed, as a venv's Python is one."""
    here = str(Path.cwd()) + os.sep
    return str(path)[len(here):] if str(path).startswith(here) else str(path)


def pip(*words: str) -> str:
    """A pip command to be pasted; double quotes hold in every shell, and < without them would redirect."""
    return " ".join([python(), "-m pip", *(f'"{w}"' if re.search(r"[^\w.=/\\:-]", w) else w for w in words)])


# ------------------------------------------------------------------------------------------ findings
def findings(facts: Facts, everything: Answer, chosen: Answer, wants_gpu: bool = True) -> list[Finding]:
    """What is wrong or worth knowing.

    everything, chosen: what TensorFlow finds without and with the user's DML_VISIBLE_DEVICES;
    wants_gpu: that doesn't ask for the CPU.
    """
    hopeless = platform_findings(facts)
    if hopeless:
        return hopeless
    packages = package_findings(facts, loads=bool(chosen.tensorflow))
    flagged = {piece for finding in packages if finding.wrong for piece in finding.pieces}
    return [*packages, *failure_findings(facts, chosen, flagged), *directml_findings(facts, everything, wants_gpu)]


def platform_findings(facts: Facts) -> list[Finding]:
    """Pythons that no TensorFlow was built for."""
    get = "install the 64-bit x86-64 Python 3.10 from https://www.python.org/downloads/windows/ and set up anew"
    if facts.bits == 32:
        return [Finding(["Python"], True, "TensorFlow exists for 64-bit Python only", get)]
    if facts.system == "Windows" and is_arm(facts) and not has_tensorflow(facts):
        return [Finding(["Python"], True, "TensorFlow doesn't exist for the ARM Python on Windows; the x86-64 one runs "
                        "in Windows' emulation and can have the plugin (none of us has tried)", get)]
    return []


def package_findings(facts: Facts, loads: bool) -> list[Finding]:
    """Packages that are missing or don't fit; what only TensorFlow asks for is wrong where that doesn't load."""
    if "packaging" not in facts.installed:
        return [Finding(["packaging"], True, "the requirements are not installed in this Python",
                        pip("install", "-r", from_here(PINS)) if PINS.is_file() else pip("install", THIS))]
    found = []
    present = [name for name in TENSORFLOWS if name in facts.installed]
    clash = len({facts.installed[name] for name in present}) > 1
    if any(need.name == PLUGIN for need in facts.needs):
        clash = bool(set(present) - BESIDE_THE_PLUGIN)
    wanted = [need.text for need in facts.needs if not need.by and need.name in (*TENSORFLOWS, PLUGIN)]
    if clash and wanted:
        found.append(Finding(present, True, f"{' and '.join(present)}: variants of TensorFlow overwrite each other's "
                             f"files; there should be {wanted[0]} only",
                             pip("uninstall", "-y", *present) + "\n" + pip("install", *wanted)))
    own = {need.name: need for need in facts.needs if not need.by and not need.fits}
    inner = {need.name: need for need in facts.needs if need.by and not need.fits and need.name not in own}
    for needs, wrong in ((own, True), (inner, not loads)):
        if needs:
            found.append(Finding(list(needs), wrong, "; ".join(need.problem for need in needs.values()),
                                 pip("install", *(need.text for need in needs.values()))))
    return found


def failure_findings(facts: Facts, answer: Answer, flagged: Iterable[str]) -> list[Finding]:
    """Why a second Python could not import TensorFlow or use its GPUs; flagged: packages whose mend is said already."""
    if not answer.failure or not has_tensorflow(facts):
        return []
    failed = "TensorFlow fails: " if answer.tensorflow else "TensorFlow can't be imported: "
    failed += answer.failure.splitlines()[0]
    for pattern, piece, meaning, mend in KNOWN_FAILURES:
        if re.search(pattern, f"{answer.failure}\n{answer.log}"):
            suspects = {"tensorflow-cpu", PLUGIN} if piece == PLUGIN else {piece}
            if not mend and not suspects & set(flagged):
                texts = {need.name: need.text for need in reversed(facts.needs) if need.name in suspects}
                mend = pip("install", "--force-reinstall", *texts.values())
            return [Finding(["TensorFlow", piece], True, f"{failed}\n{meaning}", mend)]
    return [Finding(["TensorFlow"], True, failed)]


def directml_findings(facts: Facts, answer: Answer, wants_gpu: bool) -> list[Finding]:
    """Why TensorFlow works but sees no GPU."""
    if not answer.tensorflow or answer.gpus or answer.adapters:
        return []
    if facts.system in ("macOS", "Linux"):
        return [Finding(["system"], False, f"DirectML is a part of Windows and WSL 2, not of {facts.system}")]
    if is_arm(facts):
        return [Finding(["processor"], False, "the plugin for DirectML exists for x86-64 Python only; on Windows that "
                        "runs on ARM processors too, in emulation (none of us has tried)")]
    if tuple(map(int, facts.python.split(".")[:2])) >= (3, 11):
        make, new = ("py -3.10", r".venv310\Scripts\python") if facts.system == "Windows" else \
            ("python3.10", ".venv310/bin/python")
        return [Finding(["Python"], False, "the plugin for DirectML exists for Python 3.10 and older only; to use the "
                        "GPU, make another environment:",
                        f"{make} -m venv .venv310\n{new} -m pip install -r requirements.txt")]
    if PLUGIN not in facts.installed:
        return []                                       # said among the packages
    if facts.system == "WSL" and not facts.dxg:
        return [Finding(["system"], wants_gpu, "/dev/dxg is missing: this is WSL 1, or WSL 2 without a GPU, or a "
                        "container started without --device /dev/dxg. For WSL, in Windows:",
                        "wsl --list --verbose\nwsl --update\nwsl --shutdown")]
    if facts.system == "WSL" and not facts.d3d12:
        return [Finding(["system"], wants_gpu, "/usr/lib/wsl/lib/libd3d12.so is missing, which Windows lends to WSL 2. "
                        "Update the graphics driver there, then:", "wsl --update\nwsl --shutdown")]
    if answer.directml is False:
        reason = re.search(r"dlerror: (.*)", answer.log)
        mend = "export LD_LIBRARY_PATH=/usr/lib/wsl/lib" if facts.system == "WSL" else \
            pip("install", "--force-reinstall", "--no-deps", *(n.text for n in facts.needs if n.name == PLUGIN))
        return [Finding(["DirectML"], wants_gpu, f"DirectML can't be loaded{': ' + reason[1] if reason else ''}", mend)]
    unusable = re.findall(r"Could not create (?:Direct3D|DirectML) device for adapter: (.*)", answer.log)
    return [Finding(["DirectML"], False, "DirectML loads but finds no adapter that it can use"
                    + (f"; it can't use {' and '.join(unusable)}" if unusable else ""),
                    "update the graphics driver in Windows; the GPU must know DirectX 12 (see docs/directml.md)")]


def is_arm(facts: Facts) -> bool:
    """Tells whether this Python is made for ARM processors."""
    return facts.machine.lower().startswith(("arm", "aarch"))


def has_tensorflow(facts: Facts) -> bool:
    """Tells whether any variant of TensorFlow is installed."""
    return any(name in facts.installed for name in TENSORFLOWS)
