"""Pictures and tables of a whole run: how far heads look, which positions are alike, first filters, worst mistakes.

Each function gives what is drawn, and a table with the same numbers; nothing is written. What they mean, and what they
don't: docs/explain.md.
"""
from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .attention_maps import TokenField, look_in_parts
from .classification import probabilities
from .compat import raw
from .embedding import sine_positions
from .explanations import Explanation, overlaid
from .model import PATCHES, VisionTransformer, token_grid
from .tiles import Bar, as_tile, coloured, enlarged, figure_of

DISTANCE_PICTURES = 128         # as in the ViT paper, appendix D.7
MOST_POSITIONS = 14             # rows and columns of positions that are drawn: those of 224x224 pixels in 16x16 patches
COMPONENTS = 28                 # as in the ViT paper, figure 7
MOST_FILTERS = 128
MISTAKES = 16


def explain_distance(model, images) -> Explanation:
    """Shows how far each head of each block looks, in pixels, by pictures (n, H, W, C); see Looks.distances.

    The table has the mean and the standard deviation over the pictures.
    """
    far = np.concatenate([looks.distances() for looks in look_in_parts(model, images)], axis=1)   # (blocks, n, h)
    means, deviations = far.mean(axis=1), far.std(axis=1)
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes, numbers = figure.subplots(), np.arange(1, len(far) + 1)
    behind = numbers > (model.learns_after or len(far))
    for which, face, label in ((~behind, "C0", "a head"), (behind, "none", "a head, between learned tokens")):
        if which.any():
            axes.plot(numbers[which], means[which], "o", color="C0", mfc=face, alpha=0.8, ls="none",
                      label=[label] + [None] * (means.shape[1] - 1))
    everywhere = TokenField.of(model.config).distances().mean()
    axes.axhline(everywhere, color="gray", ls=":", label="looking everywhere alike")
    axes.set(xlabel="block", ylabel="mean attention distance, pixels", xlim=(0.5, len(far) + 0.5),
             ylim=(0, 1.06 * max(everywhere, means.max())),
             title=f"how far heads look, mean over {len(images)} pictures")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncol=3, frameon=False)
    return Explanation(figure, ("block", "head", "distance", "deviation", "pictures"), [
        (block + 1, head + 1, distance, deviations[block, head], len(images))
        for (block, head), distance in np.ndenumerate(means)])


def explain_positions(model) -> Explanation:
    """Shows how alike the position embeddings of a picture's tokens are: of each, its cosine with all others.

    Of more than 14 rows or columns, some evenly chosen ones. The model must have positions.
    Source: Dosovitskiy et al., arXiv 2010.11929, figure 7, centre.
    """
    rows, columns = token_grid(model.config)
    if model.config["positions"] == "learned":
        table = raw(model.position_embedding.table.embeddings).numpy()[model.position_embedding.extra:]
    else:
        table = sine_positions(rows, columns, model.config["embedding_dim"])
    table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    steps = [-(-side // MOST_POSITIONS) for side in (rows, columns)]
    places = [[(row, column) for column in range(0, columns, steps[1])] for row in range(0, rows, steps[0])]
    alike = {(row, column): (table @ table[row * columns + column]).reshape(rows, columns)
             for line in places for row, column in line}
    side, low = max(16, 480 // max(len(places), len(places[0]))), min(likeness.min() for likeness in alike.values())
    tiles = [[(enlarged(coloured(alike[place], low, 1), side), "") for place in line] for line in places]
    figure = figure_of(tiles, "each position's likeness to all others; left and above: its row and column",
                       [str(line[0][0]) for line in places], [str(column) for _, column in places[0]],
                       Bar(low, 1, "cosine"))
    return Explanation(figure, ("row", "column", "other_row", "other_column", "cosine"), [
        (*place, *other, cosine) for place, likeness in alike.items() for other, cosine in np.ndenumerate(likeness)])


def explain_filters(model) -> Explanation:
    """Shows what the first layer looks for: of patches the filters' principal components, else the filters themselves.

    Source: Dosovitskiy et al., arXiv 2010.11929, figure 7, left.
    """
    channels = model.config["image_shape"][2]
    if isinstance(model, VisionTransformer) and model.config["embedding"] in PATCHES:
        size = model.config["patch_size"]
        kernel = raw(model.patches.projection.kernel).numpy()
        components, shares = principal_components(kernel.reshape(-1, kernel.shape[-1]))
        filters = components[:COMPONENTS].reshape(-1, size, size, components.shape[1] // size ** 2)
        title = (f"the first {len(filters)} principal components of {kernel.shape[-1]} patch filters; below: share of "
                 "their variance")
        captions = [f"{share:.1%}" for share in shares[:COMPONENTS]]
        if filters.shape[3] > channels:
            title += "\nside by side: for the picture itself, and moved to each corner"
    else:
        filters = np.moveaxis(first_kernel(model), -1, 0)[:MOST_FILTERS]
        title = f"the first convolution's first {len(filters)} filters"
        captions, shares = [""] * len(filters), None
    parts = filters.shape[3] // channels
    tiles = [(enlarged(_filter_tile(weights, channels), 72 if parts == 1 else 36 * parts), caption)
             for weights, caption in zip(filters, captions)]
    across = max(1, 620 // tiles[0][0].shape[1])
    figure = figure_of([tiles[start:start + across] for start in range(0, len(tiles), across)],
                       f"{title}\neach scaled by its largest weight; grey is 0")
    return Explanation(figure, ("filter", *(() if shares is None else ("share_of_variance",)), "row", "column",
                                "channel", "weight"), [
        (number + 1, *(() if shares is None else (shares[number],)), *place, weight)
        for (number, *place), weight in np.ndenumerate(filters)])


def first_kernel(model) -> np.ndarray:
    """Gives the kernel (height, width, channels, filters) of a stem's, or a ResNet's, first convolution."""
    if not isinstance(model, VisionTransformer):
        return raw(model.convolution.kernel).numpy()
    stem = model.patches
    return raw(stem.whitening.kernel if model.config["whitening"] else stem.convolutions[0].kernel).numpy()


def principal_components(filters) -> tuple:
    """Gives the directions in which filters (numbers, D), one per column, differ most, and each one's share of that.

    The directions are (k, numbers), of length 1, the largest number positive; as many as there can be.
    """
    centred = filters.T.astype(np.float64) - filters.mean(axis=1)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    return directions * signs[:, None], lengths ** 2 / max((lengths ** 2).sum(), 1e-30)


def explain_mistakes(model, images, labels, logits, class_names) -> Explanation | None:
    """Shows the test pictures (n, H, W, C) that were wrong with most confidence, by their logits (n, K).

    With attention, its rollout is beside each. The table has all wrong ones; None where none is.
    """
    shares, taken = probabilities(logits.astype(np.float64)), logits.argmax(axis=1)
    wrong = np.flatnonzero(taken != labels)
    wrong = wrong[np.argsort(-shares[wrong, taken[wrong]], kind="stable")]
    if not len(wrong):
        return None
    first = wrong[:MISTAKES]
    figure = figure_of_pictures(
        model, images[first], [f"{class_names[labels[number]]}\ntaken for {class_names[taken[number]]}, "
                               f"{shares[number, taken[number]]:.1%}" for number in first],
        f"the {len(first)} most confident of {len(wrong):,} mistakes on {len(labels):,} test pictures")
    return Explanation(figure, ("test_picture", "true", "taken_for", "probability", "probability_of_true"), [
        (number, class_names[labels[number]], class_names[taken[number]], shares[number, taken[number]],
         shares[number, labels[number]]) for number in wrong])


def figure_of_pictures(model, images, captions, title: str) -> Figure:
    """Shows pictures (n, H, W, C) above their captions, four in a row; with attention, its rollout is beside each."""
    images, field, maps = np.asarray(images), None, None
    if isinstance(model, VisionTransformer):
        field = TokenField.of(model.config)
        maps = np.concatenate([looks.rollout() for looks in look_in_parts(model, images)])
    tiles = []
    for number, (image, caption) in enumerate(zip(images, captions)):
        tile = enlarged(as_tile(image), 96)
        if field:
            tile = np.concatenate([tile, enlarged(overlaid(image, maps[number], field), 96)], axis=1)
        tiles.append((tile, caption))
    return figure_of([tiles[start:start + 4] for start in range(0, len(tiles), 4)], title)


def _filter_tile(weights, channels):
    """Gives a filter (height, width, k * C) as a tile, its k parts side by side; grey is 0."""
    height, width, _ = weights.shape
    parts = weights.reshape(height, width, -1, channels).transpose(0, 2, 1, 3).reshape(height, -1, channels)
    return as_tile(127.5 + 127.5 * parts / max(np.abs(parts).max(), 1e-30))
