"""report.html: all there is to see of a finished run on one page, in one file that needs no network."""
from __future__ import annotations

import base64
import html
from pathlib import Path
from string import Template

import numpy as np

from .classification import probabilities
from .model import VisionTransformer
from .pictures import png_of
from .records import read_results
from .run_explanations import explain_mistakes, figure_of_pictures
from .runs import Run
from .storage import write

EXAMPLE_SCRIPTS = Path(__file__).parents[1] / "examples"
TEMPLATE = Path(__file__).with_name("report_page.html")
EXAMPLES = 8                    # test pictures of which attention is shown: the first of as many classes
PICTURES = {"curves.png": "Curves", "samples.png": "What the model saw: pictures after augmentation",
            "confusion.png": "Confusion on the test pictures"}


def write_report_page(run: Run, model, test, logits) -> None:
    """Writes a finished run's report.html.

    test: the Split of test pictures; logits (n, K): what the model made of them.
    """
    results, names = read_results(run), run.class_names
    sections = [_section("Results", _figures(results)), _section("Repeat it", _repeat(run))]
    sections += [_section(title, _image((run.path / name).read_bytes(), title))
                 for name, title in PICTURES.items() if (run.path / name).is_file()]
    sections.append(_section("Accuracy by class", _bars(results.get("test_per_class", {}))))
    mistakes = explain_mistakes(model, test.images, test.labels, logits, names)
    if mistakes:
        sections.append(_section("Worst mistakes", _drawn(mistakes.figure, "the most confident mistakes")))
    if isinstance(model, VisionTransformer):
        sections.append(_section("Where it looks", _drawn(_examples(model, test, logits, names), "attention rollout")
                                 + _paragraph("Right: attention rollout, from black (least) to yellow (most). It tells "
                                              "what was mixed, not why a class was chosen.")))
    sections.append(_section("Constants", _table(run.read("constants"), "columns")))
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_text(f"{run.path.name}: test accuracy {results['test_accuracy']:.2%}"),
        about=_text(f"{run.read('data', 'name', kind=str)}, {model.describe()}"), sections="\n".join(sections))
    write(run.path / "report.html", page)


def _figures(results: dict) -> str:
    shown = [(f"{results['test_accuracy']:.2%}", "test accuracy"), (f"{results['test_loss']:.4f}", "test loss"),
             *((f"{value:.2%}", name[5:].replace("_", " ")) for name, value in results.items()
               if name.startswith("test_top") or name == "test_flip_accuracy"),
             (f"{results['best_val_accuracy']:.2%}", f"validation accuracy, epoch {results['best_epoch']} of "
                                                     f"{results['epochs']}"),
             (f"{results['weights']:,}", "weights"), (f"{results['cpu_seconds'] / 60:.1f}", "CPU minutes")]
    return '<div class="figures">' + "".join(f"<span><b>{_text(value)}</b>{_text(name)}</span>"
                                             for value, name in shown) + "</div>"


def _repeat(run: Run) -> str:
    versions = {name: version or "not installed" for name, version in run.read("versions").items()}
    about = {**versions, "data": f"{run.read('data', 'name', kind=str)}, fingerprint "
                                             f"{run.read('data', 'fingerprint', kind=str)}"}
    command = run.read("command", kind=str)
    where = "examples/" if (EXAMPLE_SCRIPTS / command.split(" ")[0]).is_file() else ""
    return f"<pre>python {where}{_text(command)}</pre>" + _table(about)


def _bars(per_class: dict) -> str:
    rows = "".join(f'<tr><td>{_text(name)}</td><td><div class="bar"><i style="width: {share:.1%}"></i></div></td>'
                   f"<td>{share:.1%}</td></tr>" for name, share in per_class.items())
    return f'<div class="columns"><table>{rows}</table></div>'


def _examples(model, test, logits, names):
    """Shows the first test picture of each of the first classes, and where the model looks in it."""
    first = [int(np.flatnonzero(test.labels == label)[0]) for label in np.unique(test.labels)[:EXAMPLES]]
    shares = probabilities(logits[first].astype(np.float64))
    return figure_of_pictures(
        model, test.images[first], [f"{names[test.labels[number]]}\n{names[share.argmax()]} {share.max():.1%}"
                                    for number, share in zip(first, shares)],
        "test pictures, their class, what they were taken for")


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{_text(title)}</h2>\n{content}\n</section>"


def _paragraph(text: str) -> str:
    return f'<p class="muted">{_text(text)}</p>'


def _table(entries: dict, kind: str = "") -> str:
    rows = "".join(f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in entries.items())
    return f'<div class="{kind}"><table>{rows}</table></div>'


def _drawn(figure, description: str) -> str:
    return _image(png_of(figure), description)


def _image(content: bytes, description: str) -> str:
    return f'<img alt="{_text(description)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def _text(value) -> str:
    return html.escape(str(value))
