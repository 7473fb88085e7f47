"""What is drawn of pictures and runs: the tables against other libraries, the pictures where a pixel can tell."""
import numpy as np
import pytest
from conftest import SIZES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from vision_transformer import explanations, run_explanations
from vision_transformer.architectures import build_model
from vision_transformer.attention_maps import TokenField, look
from vision_transformer.compat import raw
from vision_transformer.embedding import sine_positions
from vision_transformer.runs import weights_by_name
from vision_transformer.tiles import Bar, as_tile, coloured, enlarged, figure_of

CLASSES = ["coal", "slate", "ash", "chalk", "snow"]
BLACK, YELLOW = (0, 0, 4), (252, 255, 164)              # both ends of inferno, as matplotlib documents them


def drawn(figure):
    """The figure's pixels, (height, width, 3), as a PNG would have them."""
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def has_tile(pixels, tile):
    """Tells whether a tile is drawn somewhere, pixel by pixel."""
    tall, wide = tile.shape[:2]
    corners = np.argwhere((pixels[:-tall + 1, :-wide + 1] == tile[0, 0]).all(axis=2))
    return any((pixels[y:y + tall, x:x + wide] == tile).all() for y, x in corners)


def column(explanation, name):
    return np.array([row[explanation.header.index(name)] for row in explanation.rows])


# ------------------------------------------------------------------------------------------ tiles
def test_tiles_are_drawn_pixel_by_pixel_under_their_words():
    chance = np.random.default_rng(0)
    tiles = [chance.integers(0, 256, (40, 60, 3)).astype(np.uint8) for _ in range(3)]
    figure = figure_of([[(tiles[0], "a\nb"), None], [(tiles[1], ""), (tiles[2], "$x^2$ \x1b[2J")]], "a title",
                       ["first row", "second"], ["left", "right"], Bar(0.5, 2, "shares"))
    pixels = drawn(figure)
    assert all(has_tile(pixels, tile) for tile in tiles)
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == ["a title", "first row", "a\nb", "second", "", r"\$x^2\$ \x1b[2J", "left", "right"]
    bar = figure.axes[1]
    assert bar.get_ylabel() == "shares" and bar.get_ylim() == (0.5, 2)


def test_words_of_strangers_are_no_formulas():
    """Drawing such a formula would raise; each dollar sign is shown as one."""
    figure = figure_of([[(np.zeros((9, 9, 3), np.uint8), r"$\notacommand$ $$")]], r"$\frac{$")
    assert drawn(figure).std() > 0
    assert [text.get_text() for text in figure.axes[0].texts] == [r"\$\frac{\$", r"\$\notacommand\$ \$\$"]


def test_colours_grey_and_size():
    np.testing.assert_array_equal(coloured([[-1, 0], [4, 9]], 0, 4), [[BLACK, BLACK], [YELLOW, YELLOW]])
    np.testing.assert_array_equal(as_tile(np.array([[[1.4, 300, -5]]])), [[[1, 255, 0]]])
    np.testing.assert_array_equal(as_tile(np.array([[[7]]])), [[[7, 7, 7]]])
    np.testing.assert_array_equal(as_tile(np.array([[[10, 20]]])), [[[15, 15, 15]]])
    tile = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert enlarged(tile, 7).shape == (4, 6, 3) and enlarged(tile, 2).shape == (2, 3, 3)
    np.testing.assert_array_equal(enlarged(tile, 1), tile[:1, :1])
    np.testing.assert_array_equal(enlarged(tile, 7)[1, 5], tile[0, 2])


# ------------------------------------------------------------------------------------------ a picture
def test_rollout(make_model, images):
    model = make_model(pool="sequence")
    shares = explanations.rollout_map(model, images[2])
    np.testing.assert_allclose(shares, look(model, images).rollout()[2], rtol=1e-4)
    over = explanations.rollout_picture(model, images[2])
    assert over.dtype == np.uint8 and over.shape == (156, 260, 3)
    grey = images[2] @ np.array([0.299, 0.587, 0.114])
    for place, colour in ((shares.argmin(), BLACK), (shares.argmax(), YELLOW)):
        y, x = 2 * (place // 5), 2 * (place % 5)
        np.testing.assert_allclose(over[26 * y, 26 * x], (grey[y, x] + colour) / 2, atol=1)
    shown = explanations.explain_rollout(images[2], look(model, images[2:3]), "a title")
    np.testing.assert_allclose(column(shown, "share").reshape(3, 5), shares, rtol=1e-5)
    assert [row[:2] for row in shown.rows] == [(row, column) for row in range(3) for column in range(5)]
    pixels = drawn(shown.figure)
    assert has_tile(pixels, over) and has_tile(pixels, images[2].repeat(26, axis=0).repeat(26, axis=1))
    low, high = shown.figure.axes[1].get_ylim()
    assert (low, high) == pytest.approx((15 * shares.min(), 15 * shares.max()), rel=1e-4)


def test_heads(make_model, images):
    model = make_model(pool="cls")
    looks = look(model, images[:1])
    shown = explanations.explain_heads(images[0], looks, "a title")
    assert shown.header == ("block", "head", "row", "column", "share") and len(shown.rows) == 2 * 7 * 15
    attention = [block[0, :, 0, 1:] for block in looks.attention]
    np.testing.assert_allclose(column(shown, "share").reshape(2, 7, 15), attention, rtol=1e-6)
    assert shown.rows[7 * 15 + 3 * 15 + 2 * 5 + 4][:4] == (2, 4, 2, 4)
    one = attention[1][3]
    assert has_tile(drawn(shown.figure), enlarged(coloured(one.reshape(3, 5), 0, one.max()), 72))
    assert f"{15 * one.max():.1f}x  {one.sum():.0%}" in [text.get_text().replace("\\", "") for text in
                                                       shown.figure.axes[0].texts]


def test_of_many_blocks_and_heads_some_are_drawn_and_all_are_in_the_table(make_model, images, monkeypatch):
    monkeypatch.setattr(explanations, "MOST_SHOWN", 3)
    model = make_model(number_of_layers=4, pool="mean")
    shown = explanations.explain_heads(images[0], look(model, images[:1]), "a title")
    words = [text.get_text() for text in shown.figure.axes[0].texts]
    assert len(shown.rows) == 4 * 7 * 15 and column(shown, "block").max() == 4
    assert [word for word in words if word[:5] in ("block", "head ")] == ["block 1", "block 3", "block 4", "head 1",
                                                                          "head 4", "head 7"]


def test_learned_tokens(make_model, images):
    model = make_model(token_learner="v1", learned_tokens=9, token_learner_after=1)
    shown = explanations.explain_learned_tokens(images[0], look(model, images[:1]), "a title")
    maps = model.forward(images[:1])["token_maps"].numpy()[0]
    np.testing.assert_allclose(column(shown, "share").reshape(9, 15), maps / maps.sum(axis=1, keepdims=True), rtol=1e-5)
    assert len(shown.figure.axes[0].texts) == 10 and drawn(shown.figure).std() > 20


@pytest.mark.parametrize("field", [TokenField(3, 5, 2, 2), TokenField(2, 4, 4, 2)])
def test_patches_are_the_squares_of_the_picture(images, field):
    shown = explanations.explain_patches(images[0], field, "a title")
    pixels = drawn(shown.figure)
    assert len(shown.rows) == field.rows * field.columns
    times = 512 // (field.columns * (field.size + 1))
    for row, col, top, left, size in shown.rows:
        assert (top, left, size) == (row * field.stride, col * field.stride, field.size)
        assert has_tile(pixels, enlarged(images[0][top:top + size, left:left + size], size * times))


def test_titles_say_class_and_probability():
    assert explanations.title_of("a.png", np.log([0.2, 0.7, 0.1]), ["x", "y", "z"]) == "a.png: y 70.0%, x 20.0%"


# ------------------------------------------------------------------------------------------ a run
def test_distance_is_the_mean_over_pictures(make_model, images):
    model = make_model(token_learner="v1.1", learned_tokens=4, token_learner_after=1, pool="mean")
    shown, far = run_explanations.explain_distance(model, images), look(model, images).distances()
    np.testing.assert_allclose(column(shown, "distance").reshape(2, 7), far.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(column(shown, "deviation").reshape(2, 7), far.std(axis=1), rtol=1e-3, atol=1e-6)
    assert shown.rows[9][:2] == (2, 3) and shown.rows[9][4] == 4
    lines = shown.figure.axes[0].lines
    np.testing.assert_allclose([line.get_ydata()[0] for line in lines[:7]], far.mean(axis=1)[0], rtol=1e-5)
    assert lines[0].get_markerfacecolor() == "C0" and lines[7].get_markerfacecolor() == "none"
    assert lines[14].get_ydata()[0] == pytest.approx(TokenField.of(model.config).distances().mean())


@pytest.mark.parametrize("changes", [{"pool": "cls"}, {"positions": "sincos"}])
def test_positions_are_compared_by_their_cosine(make_model, changes):
    model = make_model(**changes)
    table = sine_positions(3, 5, 14)
    if "pool" in changes:
        table = np.random.default_rng(0).normal(size=(16, 14))
        raw(model.position_embedding.table.embeddings).assign(table)
        table = table[1:]
    shown = run_explanations.explain_positions(model)
    np.testing.assert_allclose(column(shown, "cosine").reshape(15, 15), cosine_similarity(table), atol=1e-5)
    assert shown.rows[15 * 7 + 4][:4] == (1, 2, 0, 4)
    assert drawn(shown.figure).std() > 20


def test_of_many_positions_some_are_drawn(make_model):
    shown = run_explanations.explain_positions(make_model(image_shape=(2, 58, 3), pool="mean"))
    assert len(shown.rows) == 10 * 29 and sorted(set(column(shown, "column"))) == list(range(0, 29, 3))


@pytest.mark.parametrize("embedding, parts", [("linear", 1), ("convolution", 1), ("shifted", 5)])
def test_patch_filters_are_drawn_by_their_principal_components(make_model, embedding, parts):
    model = make_model(embedding=embedding, image_shape=(9, 15, 3), patch_size=3, patch_stride=3, pool="mean")
    kernel = raw(model.patches.projection.kernel).numpy().reshape(27 * parts, 14)
    shown, reference = run_explanations.explain_filters(model), PCA(13).fit(kernel.T)
    weights = column(shown, "weight").reshape(-1, 3, 3, 3 * parts)[:13]
    assert shown.rows[27 * parts + 9 * parts + 6 * parts + 2][2:5] == (1, 2, 2)
    for found, expected in zip(weights, reference.components_):
        assert abs(found.ravel() @ expected) == pytest.approx(1, abs=1e-4)
        assert found.ravel()[np.abs(found).argmax()] > 0
    np.testing.assert_allclose(column(shown, "share_of_variance")[::27 * parts][:13],
                               reference.explained_variance_ratio_, rtol=1e-4)
    first, times = weights[0], 24 if parts == 1 else 12
    tile = np.rint(127.5 + 127.5 * first / np.abs(first).max()).astype(np.uint8)
    tile = np.concatenate([tile[..., 3 * part:3 * part + 3] for part in range(parts)], axis=1)
    assert has_tile(drawn(shown.figure), tile.repeat(times, axis=0).repeat(times, axis=1))


@pytest.mark.parametrize("changes, name", [
    ({"embedding": "hybrid", "stem_widths": "5"}, "convolution_0/kernel"),
    ({"embedding": "hybrid", "stem_widths": "5", "whitening": True}, "whitening/kernel"),
    ({"embedding": "compact", "stem_widths": ""}, "convolution_0/kernel"),
    ({"architecture": "resnet", "blocks_per_stage": 1, "first_width": 7}, "convolution/kernel")])
def test_of_a_convolution_the_filters_are_drawn(changes, name):
    model = build_model(**{**SIZES, **changes})
    [kernel] = [value.numpy() for path, value in weights_by_name(model).items()
                if path.endswith(name) and "block_" not in path]
    shown = run_explanations.explain_filters(model)
    found = column(shown, "weight").reshape(kernel.shape[-1], *kernel.shape[:3])
    np.testing.assert_array_equal(found, np.moveaxis(kernel, -1, 0))
    assert shown.header == ("filter", "row", "column", "channel", "weight") and drawn(shown.figure).std() > 20


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_mistakes_begin_with_the_surest(architecture):
    model = build_model(**{**SIZES, "architecture": architecture, "blocks_per_stage": 1, "first_width": 3})
    images = np.random.default_rng(1).integers(0, 256, (5, 6, 10, 3)).astype(np.uint8)
    shares = np.array([[0.6, 0.1, 0.1, 0.1, 0.1], [0.05, 0.8, 0.05, 0.05, 0.05], [0.1, 0.1, 0.7, 0.05, 0.05],
                       [0.02, 0.9, 0.03, 0.02, 0.03], [0.4, 0.15, 0.15, 0.15, 0.15]])
    labels = np.array([0, 2, 2, 4, 1])
    shown = run_explanations.explain_mistakes(model, images, labels, np.log(shares), CLASSES)
    assert [row[:3] for row in shown.rows] == [(3, "snow", "slate"), (1, "ash", "slate"), (4, "slate", "coal")]
    np.testing.assert_allclose([row[3:] for row in shown.rows], [[0.9, 0.03], [0.8, 0.05], [0.4, 0.15]])
    words = [text.get_text() for text in shown.figure.axes[0].texts]
    assert words[:2] == ["the 3 most confident of 3 mistakes on 5 test pictures", "snow\ntaken for slate, 90.0%"]
    picture = images[3].repeat(10, axis=0).repeat(10, axis=1)
    if architecture == "vit":
        looks = look(model, images[3:4])
        over = explanations.overlaid(images[3], looks.rollout()[0], looks.field)
        picture = np.concatenate([picture, over.repeat(10, axis=0).repeat(10, axis=1)], axis=1)
    assert has_tile(drawn(shown.figure), picture)
    assert run_explanations.explain_mistakes(model, images, shares.argmax(axis=1), np.log(shares), CLASSES) is None
