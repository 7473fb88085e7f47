"""report.html: whole, in one file, with the run's figures and constants; what strangers wrote stays text."""
import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vision_transformer.datasets import Split
from vision_transformer.report_page import write_report_page
from vision_transformer.resnet import ResNet
from vision_transformer.runs import Run

NAMES = ["<script>alert(1)</script>", "b & c", '"d"', "e", "f"]
RESULTS = {"epochs": 3, "best_epoch": 2, "best_val_accuracy": 0.75, "test_loss": 1.2345, "test_accuracy": 0.5678,
           "test_top_3_accuracy": 0.9876, "test_flip_accuracy": 0.6111, "weights": 12_345, "cpu_seconds": 123.0,
           "test_per_class": dict(zip(NAMES, (0.5, 0.625, 0.75, 0.875, 1.0)))}


class Page(HTMLParser):
    """Collects a page's tags, what they refer to, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def report(tmp_path, images):
    """Writes the report of a run of the given model and logits; gives the page."""
    def written(model, logits):
        run = Run.create(tmp_path, "bright", {
            "constants": {"POOL": "cls", "RUN_FOLDER": "<b>"}, "class_names": NAMES, "model": {"num_classes": 5},
            "data": {"name": "bright", "fingerprint": "0123"}, "versions": {"python": "3.99", "plugin": ""},
            "command": "train_image_folder.py --pool cls '<i>'"})
        run.write_results(RESULTS)
        Image.fromarray(images[0]).save(run.path / "curves.png")
        write_report_page(run, model, Split(images, np.arange(4)), logits)
        content = (run.path / "report.html").read_text(encoding="utf-8")
        assert "url(" not in content and "@import" not in content
        return Page(content)
    return written


def test_it_is_one_file_with_all_figures_and_no_strangers_tags(report, make_model, images):
    page = report(make_model(), np.eye(5)[[0, 2, 1, 3]] * 9)
    command = "python examples/train_image_folder.py --pool cls '<i>'"
    for shown in (command, "not installed", "56.78%", "1.2345", "98.76%", "61.11%", "75.00%", "epoch 2 of 3", "12,345",
                  "2.0", "62.5%", "87.5%", "3.99", "fingerprint 0123", "POOL", "RUN_FOLDER", "<b>", *NAMES):
        assert shown in page.text, shown
    assert not {"script", "link", "iframe", "i href"} & set(page.tags) and page.tags.count("h2") == 7
    pictures = [Image.open(io.BytesIO(base64.b64decode(source.partition("data:image/png;base64,")[2])))
                for source in page.references]
    assert len(pictures) == 3                                       # the curves, mistakes, attention: all inside
    np.testing.assert_array_equal(np.asarray(pictures[0]), images[0])
    assert all(len(picture.convert("RGB").getcolors(10 ** 6)) > 50 for picture in pictures)


def test_no_mistakes_and_no_attention_are_left_out(report, images):
    model = ResNet(image_shape=(6, 10, 3), num_classes=5, blocks_per_stage=1, first_width=3)
    page = report(model, np.eye(5)[:4])
    assert "Worst mistakes" not in page.text and "Where it looks" not in page.text and len(page.references) == 1
