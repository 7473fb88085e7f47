"""Mixup and cutmix against numpy, what their shares are, and that labels keep as much of a picture as is seen of it."""
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from scipy import stats

from vision_transformer.batches import training_batches
from vision_transformer.classification import Classification
from vision_transformer.mixing import cutmix, draw_beta, make_mixing, mixup, soft_labels

BATCH, HEIGHT, WIDTH, CLASSES = 7, 11, 13, 17
SEED = (5, 3)
LABELS = np.array([3, 0, 16, 3, 8, 8, 1])
EACH_ITS_OWN = {"mixup": {"mixup": 0.7}, "cutmix": {"cutmix": 1.5}}
OPTIONS = [*EACH_ITS_OWN.values(), {"mixup": 0.7, "cutmix": 1.5}]


def pictures(batch=BATCH, channels=3):
    return np.random.RandomState(0).randint(0, 256, (batch, HEIGHT, WIDTH, channels)).astype("float32")


def partner(arrays):
    return np.concatenate([arrays[1:], arrays[:1]])


# --- kernels ---


@pytest.mark.parametrize("channels", [1, 3])
def test_mixup_agrees_with_numpy(channels):
    images, shares = pictures(channels=channels), np.linspace(0, 1, BATCH).astype("float32")
    own = shares[:, None, None, None]
    expected = own * images + (1 - own) * partner(images)
    np.testing.assert_allclose(mixup(tf.constant(images), shares), expected, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_cutmix_agrees_with_slices(channels):
    images = pictures(channels=channels) / 3
    boxes = [(0, 0, 11, 13), (2, 3, 5, 12), (4, 4, 4, 9), (0, 5, 1, 6), (-3, -2, 4, 5), (9, 11, 20, 30),
             (10, 12, 11, 13)]
    expected = images.copy()
    for i, (top, left, bottom, right) in enumerate(boxes):
        box = (i, slice(max(top, 0), bottom), slice(max(left, 0), right))
        expected[box] = images[((i + 1) % BATCH, *box[1:])]
    np.testing.assert_array_equal(cutmix(tf.constant(images), tf.constant(boxes)), expected)


def test_soft_labels_by_hand():
    ours = soft_labels(tf.constant([2, 0, 0]), tf.constant([0.25, 1.0, 0.5]), 4)
    np.testing.assert_allclose(ours, [[0.75, 0, 0.25, 0], [1, 0, 0, 0], [0.5, 0, 0.5, 0]])


# --- shares ---


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1, 8])
def test_shares_are_of_the_beta_distribution(alpha):
    shares = draw_beta(SEED, [20_000], alpha).numpy()
    assert np.isfinite(shares).all() and shares.min() >= 0 and shares.max() <= 1
    for at in (0.001, 0.1, 0.3, 0.5, 0.8):
        wanted = stats.beta(alpha, alpha).cdf(at)
        assert abs((shares <= at).mean() - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 20_000)
    assert abs(shares.var() - 1 / (8 * alpha + 4)) < 0.004


@pytest.mark.parametrize(("alpha", "expected"), [(1e-30, [0, 1]), (100, [0.4, 0.6])])
def test_even_extreme_shares_are_numbers(alpha, expected):
    shares = np.sort(draw_beta(SEED, [1000], alpha))
    np.testing.assert_allclose(shares[[10, -10]], expected, atol=0.05)
    assert abs(shares.mean() - 0.5) < 0.05


def test_shares_are_the_same_on_every_stack_and_step_by_step_others():
    np.testing.assert_allclose(draw_beta((3, 4), [3], 0.2), [0.9997925, 0.0272016, 0.9999994], rtol=1e-5)
    shares = [draw_beta(seed, [3000], 0.5) for seed in ((3, 4), (3, 5), (4, 4))]
    assert np.abs(np.corrcoef(shares) - np.eye(3)).max() < 0.1


# --- mixing ---


def cut_boxes(batch):
    """Mixes pictures that are each of one value, and gives (top, left, bottom, right) of the boxes with the shares."""
    images = np.broadcast_to(np.arange(batch, dtype="float32")[:, None, None, None], (batch, 29, 41, 1))
    mixed, labels = make_mixing(2, cutmix=1.0)(images, np.arange(batch) % 2, SEED)
    cut = mixed.numpy()[..., 0] != images[..., 0]
    rows, columns = cut.any(axis=2), cut.any(axis=1)
    np.testing.assert_array_equal(cut, rows[:, :, None] & columns[:, None, :])
    edges = [(lines.argmax(axis=1), lines.shape[1] - lines[:, ::-1].argmax(axis=1)) for lines in (rows, columns)]
    own = labels.numpy()[np.arange(batch), np.arange(batch) % 2]
    return (*edges[0], *edges[1], own)[:5], cut


def test_boxes_have_the_pictures_aspect_lie_anywhere_and_labels_count_their_pixels():
    (top, bottom, left, right, own), cut = cut_boxes(3000)
    np.testing.assert_allclose(1 - own, cut.mean(axis=(1, 2)), atol=1e-6)
    whole = (top > 0) & (bottom < 29) & (left > 0) & (right < 41) & cut.any(axis=(1, 2))
    height, width = (bottom - top)[whole], (right - left)[whole]
    assert whole.sum() > 300 and (np.abs(height / 29 - width / 41) < 1 / 29).all()
    centres = np.stack([top + (bottom - top) // 2, left + (right - left) // 2], axis=-1)[whole & (bottom - top < 6)]
    assert centres.min() < 4 and centres[:, 0].max() > 24 and centres[:, 1].max() > 36
    np.testing.assert_allclose(centres.mean(axis=0), [14, 20], atol=2)
    assert abs(cut.mean(axis=0) - cut.mean(axis=0)[::-1, ::-1]).max() < 0.06 and cut.any(axis=0).all()
    assert own.max() == 1 and own.min() < 0.2


def test_boxes_cut_as_large_a_share_as_was_drawn_unless_they_reach_beyond_the_edge():
    (top, bottom, left, right, own), cut = cut_boxes(3000)
    drawn = 1 - draw_beta(SEED, [3000], 1.0).numpy()
    inside = (top > 0) & (bottom < 29) & (left > 0) & (right < 41) & cut.any(axis=(1, 2))
    sides = np.floor(29 * np.sqrt(drawn)) * np.floor(41 * np.sqrt(drawn)) / (29 * 41)
    np.testing.assert_allclose((1 - own)[inside], sides[inside], atol=1e-5)
    assert (1 - own <= sides + 1e-5).all()


@pytest.mark.parametrize("name", EACH_ITS_OWN)
def test_pictures_and_labels_are_mixed_alike(name):
    images, labels = pictures(CLASSES), np.random.RandomState(1).permutation(CLASSES)
    mixed, soft = (part.numpy() for part in make_mixing(CLASSES, **EACH_ITS_OWN[name])(images, labels, SEED))
    shares = soft[np.arange(CLASSES), labels]
    np.testing.assert_allclose(soft, shares[:, None] * np.eye(CLASSES)[labels]
                               + (1 - shares)[:, None] * np.eye(CLASSES)[partner(labels)], atol=1e-6)
    assert len(np.unique(shares)) > CLASSES / 2
    if name == "mixup":
        own = shares[:, None, None, None]
        np.testing.assert_allclose(mixed, own * images + (1 - own) * partner(images), atol=1e-3)
        np.testing.assert_allclose(shares, draw_beta(SEED, [CLASSES], 0.7), atol=1e-6)
    else:
        is_own, is_partners = (mixed == images).all(axis=-1), (mixed == partner(images)).all(axis=-1)
        assert (is_own | is_partners).all()
        np.testing.assert_allclose(is_own.mean(axis=(1, 2)), shares, atol=0.02)


@pytest.mark.parametrize("options", OPTIONS)
def test_soft_labels_sum_to_one(options):
    images, labels = make_mixing(CLASSES, **options)(pictures(), LABELS, SEED)
    assert images.shape == (BATCH, HEIGHT, WIDTH, 3) and images.dtype == labels.dtype == tf.float32
    assert labels.shape == (BATCH, CLASSES) and labels.numpy().min() >= 0
    np.testing.assert_allclose(np.sum(labels, axis=1), 1, rtol=1e-6)


def test_where_both_are_on_each_batch_takes_one_of_them_by_a_fair_coin():
    alone = [make_mixing(CLASSES, **options) for options in EACH_ITS_OWN.values()]
    mix = tf.function(make_mixing(CLASSES, **OPTIONS[2]))
    taken = []
    for step in range(200):
        images, labels = mix(pictures(), tf.constant(LABELS), tf.constant([5, step]))
        if step < 10:
            same = [np.allclose(images, one(pictures(), LABELS, (5, step))[0], atol=1e-3) for one in alone]
            assert sum(same) == 1
            taken.append(same[0])
            np.testing.assert_allclose(labels, alone[1 - same[0]](pictures(), LABELS, (5, step))[1], atol=1e-6)
        else:
            taken.append(not (np.equal(images, pictures()) | np.equal(images, partner(pictures()))).all())
    assert abs(np.mean(taken) - 0.5) < 5 * 0.5 / np.sqrt(200)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_pipeline_gives_what_an_eager_call_gives_and_a_seed_the_same(options):
    images, labels, mix = pictures(3 * BATCH), np.tile(LABELS, 3), make_mixing(CLASSES, **options)
    batches = tf.data.Dataset.from_tensor_slices((images.astype("uint8"), labels)).batch(BATCH, True).enumerate()
    batches = batches.map(lambda step, batch: mix(*batch, [5, step]))
    assert [spec.shape.as_list() for spec in batches.element_spec] == [[BATCH, HEIGHT, WIDTH, 3], [BATCH, CLASSES]]
    for step, batch in enumerate(batches):
        part = slice(step * BATCH, (step + 1) * BATCH)
        for ours, eager in zip(batch, mix(images[part], labels[part], (5, step))):
            np.testing.assert_allclose(ours, eager, atol=1e-3)
        assert not np.allclose(batch[1], mix(images[part], labels[part], (6, step))[1])


def test_mixed_batches_are_trained_on_by_their_shares(make_model, data):
    """From arrays to the loss, against the formula."""
    batches = training_batches(data.train, batch_size=13, epochs=1, seed=0, mix=make_mixing(5, mixup=1.0, cutmix=1.0))
    task = Classification(make_model(dropout=0.0, classifier_dropout=0.0), top_k=2, batch_size=13)
    for step, images, labels in batches.take(2):
        assert (np.max(labels, axis=1) < 0.99).any()
        loss, (_, accuracy, _) = task.loss((images, labels), step)
        logits = task.model(images).numpy()
        expected = scipy.special.logsumexp(logits, axis=1) - (labels * logits).numpy().sum(axis=1)
        np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
        np.testing.assert_allclose(accuracy, (logits.argmax(axis=1) == np.argmax(labels, axis=1)).mean(), rtol=1e-6)


def test_all_off_is_nothing_to_do():
    assert make_mixing(CLASSES) is None and make_mixing(CLASSES, mixup=0, cutmix=0) is None


def test_a_picture_alone_stays_as_it_is():
    for options in EACH_ITS_OWN.values():
        images, labels = make_mixing(CLASSES, **options)(pictures(1), LABELS[:1], SEED)
        np.testing.assert_allclose(images, pictures(1))
        np.testing.assert_allclose(labels, np.eye(CLASSES)[LABELS[:1]])


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("bad", [-0.1, 101, float("nan"), float("inf"), True, "0.2", None])
def test_what_is_no_alpha_is_refused(name, bad):
    with pytest.raises(ValueError, match=rf"^{name.upper()} {bad!r} is not a number from 0 \(off\) to 100;"):
        make_mixing(CLASSES, **{name: bad})
