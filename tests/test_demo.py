"""python -m vision_transformer demo: the page in a real browser, headless Chromium, as somebody uses it."""
import json
import shutil
import socket
import subprocess
import sys
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image
from processes import PIPES, ROOT

from vision_transformer.__main__ import main
from vision_transformer.commands import demo
from vision_transformer.explanations import rollout_picture
from vision_transformer.picture_files import PictureError
from vision_transformer.resnet import ResNet
from vision_transformer.runs import Run

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--window-size=1200,900")
PATIENCE = 60                   # seconds until a page that doesn't answer is a failure


# ------------------------------------------------------------------------------------------ what the page asks
def test_the_answer_is_the_models(digits_run, digit_files):
    run = Run(digits_run)
    model, (path, label) = run.load_model(), digit_files[0]
    classes, seen, attention = demo.answer(model, run.class_names, path)
    picture = seen[::32, ::32, :1]                                              # of 8 pixels, each 32 wide
    assert seen.shape == (256, 256, 3) and max(classes, key=classes.get) == str(label)
    logits = model(picture[None]).numpy()[0].astype(np.float64)
    np.testing.assert_allclose(list(classes.values()), np.exp(logits) / np.exp(logits).sum(), atol=1e-5)
    np.testing.assert_array_equal(attention, rollout_picture(model, picture))


def test_a_model_without_attention_answers_too(digit_files):
    model = ResNet(image_shape=(8, 8, 1), num_classes=2, blocks_per_stage=1, first_width=3)
    classes, _, attention = demo.answer(model, ["a", "b"], digit_files[0][0])
    assert sum(classes.values()) == pytest.approx(1) and attention is None


def test_no_picture_and_too_large_a_file_are_refused(make_model, tmp_path, monkeypatch):
    path = tmp_path / "note.png"
    path.write_text("no picture")
    with pytest.raises(PictureError, match=r"note\.png: can't be read as a picture"):
        demo.answer(make_model(), [], path)
    monkeypatch.setattr(demo, "LARGEST_PICTURE", 9)
    with pytest.raises(PictureError, match=r"^note\.png: can't be read .*: it has 0 MB; at most 0 are taken$"):
        demo.answer(make_model(), [], path)


def test_without_gradio_it_says_how_to_get_it(digits_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(RuntimeError, match=r"needs the package gradio: python -m pip install -r requirements-extras"):
        main(["demo", str(digits_run)])


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_that_is_none_is_refused(digits_run, port):
    with pytest.raises(ValueError, match=f"--port is {port}; choose a whole number from 1 to 65,535"):
        main(["demo", str(digits_run), "--port", port])


# ------------------------------------------------------------------------------------------ in a browser
@pytest.fixture(scope="module")
def page(digits_run):
    """The address of a page that is served as a user serves it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "vision_transformer", "demo", str(digits_run), "--port", str(port),
                               "--no-browser"], cwd=ROOT, **PIPES)
    said = server.stdout.readline()
    assert said.startswith(f"open http://127.0.0.1:{port}/ and drop a picture in"), said or server.stderr.read()
    yield said.split()[1]
    server.kill()
    server.communicate()


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def drop(browser, path):
    """Drops a file onto the page's field, as a mouse does."""
    field = browser.find_element("id", "picture").rect
    where = {"x": field["x"] + field["width"] / 2, "y": field["y"] + field["height"] / 2}
    for event in ("dragEnter", "dragOver", "drop"):
        browser.execute_cdp_cmd("Input.dispatchDragEvent", {
            "type": event, **where, "data": {"items": [], "files": [str(path)], "dragOperationsMask": 1}})


def wait_for(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait
    return WebDriverWait(browser, PATIENCE).until(lambda _: condition())


def text_of(browser, what):
    return browser.find_element("css selector", what).text


@pytest.fixture
def opened(browser, page):
    browser.get(page)
    wait_for(browser, lambda: browser.find_elements("css selector", "#picture input[type=file]"))
    return browser


@pytest.mark.slow
def test_a_dropped_picture_is_answered_with_class_probability_and_attention(opened, digits_run, digit_files, tmp_path):
    path, label = digit_files[0]
    run = Run(digits_run)
    probability = demo.answer(run.load_model(), run.class_names, path)[0][str(label)]
    drop(opened, path)
    wait_for(opened, lambda: f"{probability:.0%}" in text_of(opened, "#classes"))
    assert text_of(opened, "#classes").split("\n")[1] == str(label)
    for what in ("#seen img", "#attention img"):
        size = wait_for(opened, lambda what=what: opened.execute_script(
            "let i = document.querySelector(arguments[0]); return i && i.complete && i.naturalWidth", what))
        assert size == 256, what
    opened.save_screenshot(str(tmp_path / "demo.png"))
    with Image.open(tmp_path / "demo.png") as picture:
        assert len(picture.convert("RGB").getcolors(10 ** 7)) > 100


@pytest.mark.slow
def test_what_is_no_picture_is_refused_in_words(opened, tmp_path):
    path = tmp_path / "letter.jpg"
    path.write_text("Dear browser")
    drop(opened, path)
    wait_for(opened, lambda: "letter.jpg: can't be read as a picture" in text_of(opened, "body"))
    assert "%" not in text_of(opened, "#classes")


@pytest.mark.slow
def test_too_large_a_file_is_refused_in_words(opened, tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(bytes(demo.LARGEST_PICTURE + 1))
    drop(opened, path)
    wait_for(opened, lambda: "maximum allowed size" in text_of(opened, "body"))
    assert "%" not in text_of(opened, "#classes")


@pytest.mark.slow
def test_only_this_computer_is_asked_and_answered(opened, page):
    asked = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    hosts = {urlparse(message["params"]["request"]["url"]).hostname for message in asked
             if message["method"] == "Network.requestWillBeSent"}
    assert hosts - {None} == {"127.0.0.1"}              # None: pictures that are part of the page
    with pytest.raises(ConnectionRefusedError):         # another address of this machine
        socket.create_connection(("127.0.0.2", urlparse(page).port), timeout=10)


@pytest.mark.slow
def test_a_port_in_use_is_named(digits_run, page):
    port = str(urlparse(page).port)
    with pytest.raises(OSError, match=f"can't be served at port {port}, .*choose another --port"):
        main(["demo", str(digits_run), "--port", port, "--no-browser"])
