"""The README: the same two commands for each shell (.ci/run types the bash ones), true links, tables and file map."""
import re
from pathlib import Path

from vision_transformer.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_two_commands_do_all_the_set_up_for_each_shell():
    bash, powershell = blocks("bash"), blocks("powershell")
    assert len(bash) == len(powershell) == 2
    for text in bash + powershell:
        assert len(text.splitlines()) == 1, "one pasted line each"
    for line, other in zip(bash, powershell):
        def words(text):
            return [w.replace("\\", "/").replace("/Scripts/", "/bin/") for w in re.split(r" && |; |\s", text.strip())]
        assert words(line)[1:] == [w for w in words(other)[1:] if w != "-3.10"], "the two shells do the same"


def test_the_file_map_names_every_file_and_no_other():
    named = re.findall(r"`([\w/]+\.py)`", README.split("## File map")[1].split("##")[0])
    files = [*ROOT.glob("*.py"), *(ROOT / "vision_transformer").glob("*.py")]
    assert sorted(named) == sorted(p.relative_to(ROOT).as_posix() for p in files if not p.name.startswith("__"))


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_command_is_shown():
    for command in COMMANDS:
        assert f"\npython -m vision_transformer {command}" in README


def test_the_table_of_the_run_folder_is_complete():
    table = README.split("| in the run folder")[1].split("\n\n")[0]
    files = {"config.json", "model.safetensors", "state.safetensors", "history.csv", "results.json", "tensorboard/",
             "samples.png", "curves.png", "confusion.png", "report.html"}
    assert set(re.findall(r"`([\w./]+)`", table)) == files
