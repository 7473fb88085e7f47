"""Opens a page on this computer where pictures are dropped in, and classes, probabilities and attention come out."""
from __future__ import annotations

import os
from pathlib import Path

from ..checks import check_whole
from ..classification import probabilities
from ..explanations import rollout_picture
from ..model import VisionTransformer
from ..picture_files import PictureError, read_picture
from ..runs import Run
from ..tiles import as_tile, enlarged

LOOPBACK = "127.0.0.1"          # nobody else's computer reaches it
LARGEST_PICTURE = 20 * 2 ** 20  # bytes
SHOWN_CLASSES = 5
KEPT = 600                      # seconds that dropped pictures stay on disk


def add_arguments(parser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/cifar10-001")
    parser.add_argument("--port", type=int, default=7860, help="the page's port (default 7860)")
    parser.add_argument("--no-browser", action="store_true", help="don't open a browser")


def run(arguments) -> int:
    """Serves the page until Ctrl-C."""
    run = Run(arguments.run)
    check_whole("--port", arguments.port, 1, 65535)
    names, model = run.class_names, run.load_model()
    gradio = _gradio()
    page = make_page(gradio, run.path.name, model.describe(), names, model)
    try:
        _, address, _ = page.launch(
            server_name=LOOPBACK, server_port=arguments.port, share=False, inbrowser=not arguments.no_browser,
            max_file_size=LARGEST_PICTURE, prevent_thread_lock=True, quiet=True, footer_links=[],
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]))     # none fetched
    except OSError as error:
        raise OSError(f"the page can't be served at port {arguments.port}, which another program may be using; choose "
                      f"another --port, such as {arguments.port % 65535 + 1}.") from error
    print(f"open {address} and drop a picture in; Ctrl-C ends it", flush=True)
    page.block_thread()
    return 0


def answer(model, names, path) -> tuple:
    """Gives {class: probability} for a picture file, the picture as the model sees it, and its attention rollout.

    Both pictures are uint8 (h, w, 3); without attention the second is None. Raises PictureError for what can't be read.
    """
    if Path(path).stat().st_size > LARGEST_PICTURE:
        raise PictureError(Path(path).name, f"it has {Path(path).stat().st_size / 2 ** 20:.0f} MB; at most "
                                            f"{LARGEST_PICTURE / 2 ** 20:.0f} are taken")
    picture = read_picture(path, model.config["image_shape"])
    [shares] = probabilities(model(picture[None], training=False).numpy())
    attention = rollout_picture(model, picture) if isinstance(model, VisionTransformer) else None
    return dict(zip(names, map(float, shares))), enlarged(as_tile(picture), 256), attention


def make_page(gradio, title: str, about: str, names, model):
    """Gives the page as Gradio's Blocks."""
    def answered(path):
        if path is None:                                # the picture was taken out again
            return None, None, None
        try:
            return answer(model, names, path)
        except PictureError as error:
            raise gradio.Error(str(error).replace(str(path), Path(path).name), print_exception=False) from error

    picture = {"show_label": False, "interactive": False, "buttons": ["fullscreen"]}
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gradio.Markdown(f"## {title}\n{about}. Drop a picture in; it stays on this computer.")
        with gradio.Row():
            dropped = gradio.File(label=f"Picture, at most {LARGEST_PICTURE // 2 ** 20} MB", elem_id="picture")
            classes = gradio.Label(label="Class", num_top_classes=min(SHOWN_CLASSES, len(names)), elem_id="classes")
        with gradio.Row():
            with gradio.Column():
                gradio.Markdown("What the model sees")
                seen = gradio.Image(elem_id="seen", **picture)
            with gradio.Column(visible=isinstance(model, VisionTransformer)):
                gradio.Markdown("Where it looks: attention rollout, yellow is most")
                attention = gradio.Image(elem_id="attention", **picture)
        dropped.change(answered, dropped, [classes, seen, attention])
    return page


def _gradio():
    """Imports Gradio, which then asks no server for news."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise RuntimeError("the demo needs the package gradio: python -m pip install -r "
                           "requirements-extras.txt") from error
    return gradio
