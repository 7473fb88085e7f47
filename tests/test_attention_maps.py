"""Where a model looks, as numbers: each against a case worked by hand, or loops over forward()'s attention."""
import itertools

import numpy as np
import pytest

from vision_transformer import attention_maps
from vision_transformer.architectures import build_model
from vision_transformer.attention_maps import TokenField, look, look_in_parts, mean_distance, rollout

LEARNERS = {"none": {}, "v1": {"token_learner": "v1", "learned_tokens": 4, "token_learner_after": 1},
            "v1.1": {"token_learner": "v1.1", "learned_tokens": 4, "token_learner_after": 1}}


def test_rollout_of_two_blocks_and_three_tokens_worked_by_hand():
    first = [[[1, 0, 0], [1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]]         # two heads
    second = [[[0, 0, 1], [0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 1, 0], [0, 0, 1]]]
    # Means with themselves: 1 0 0 | 1/4 3/4 0 | 0 1/4 3/4 and 1/2 1/4 1/4 | 0 3/4 1/4 | 1/4 0 3/4; the second times the
    # first:
    expected = np.array([[9, 4, 3], [3, 10, 3], [4, 3, 9]]) / 16
    attention = [np.array([block] * 3, float) for block in (first, second)]
    np.testing.assert_allclose(rollout(np.eye(3), attention), expected, rtol=1e-12)


def test_rollout_goes_through_a_token_learner_worked_by_hand():
    # A class token and two learned ones of three places; behind it the class token looks at the first of them alone,
    # before it each place at the class token alone.
    behind = np.array([[[[0, 1, 0], [0, 1, 0], [0, 0, 1]]]], float)
    before = np.array([[[[1, 0, 0, 0]] * 4]], float)
    learner = attention_maps.learner_matrix(np.array([[[2, 1, 1], [0, 0, 5]]], float), extra=1)
    np.testing.assert_array_equal(learner[0], [[1, 0, 0, 0], [0, 0.5, 0.25, 0.25], [0, 0, 0, 1]])
    shares = rollout([[1, 0, 0]], [before, behind], learner, learns_after=1)
    np.testing.assert_allclose(shares, [[0.75, 0.125, 0.0625, 0.0625]])
    np.testing.assert_allclose(rollout([[1, 0, 0]], [before], learner, learns_after=1), [[1, 0, 0, 0]])
    np.testing.assert_allclose(rollout([[0, 0, 1]], [before], learner, learns_after=1), [[0.5, 0, 0, 0.5]])


def read_by(model, made):
    """How much the pool reads of each of the last block's tokens, (B, N)."""
    tokens, extra = made["tokens"].numpy(), model.extra_tokens
    read = np.zeros(tokens.shape[:2])
    if model.config["pool"] == "cls":
        count = 1 + model.config["read_registers"]
        read[:, :count] = 1 / count
    elif model.config["pool"] == "sequence":
        kernel, bias = (weight.numpy() for weight in model.sequence_pooling.score.weights)
        scores = np.exp(tokens[:, extra:] @ kernel + bias)[..., 0]
        read[:, extra:] = scores / scores.sum(axis=1, keepdims=True)
    else:
        read[:, extra:] = 1 / (tokens.shape[1] - extra)
    return read


ALL = list(itertools.product(["flatten", "cls", "mean", "sequence"], LEARNERS, [0, 2]))
# Each pair of them every day, all three together where there is time.
HALF = [ALL[number] for number in range(len(ALL)) if (number + number // 2) % 2]


@pytest.mark.parametrize("pool, learner, registers", [
    pytest.param(*each, marks=() if each in HALF else pytest.mark.slow) for each in ALL])
def test_maps_of_every_pool_and_token_number(make_model, images, pool, learner, registers):
    kind = "locality" if registers else "plain"
    model = make_model(pool=pool, register_tokens=registers, read_registers=int(pool == "cls" and registers > 0),
                       attention=kind, **LEARNERS[learner])
    images = images[:2]
    made, looks, extra = model.forward(images), look(model, images), registers + (pool == "cls")
    after, read = LEARNERS[learner].get("token_learner_after", 2), read_by(model, made)
    np.testing.assert_array_equal(looks.logits, made["logits"])
    maps, heads = looks.rollout(), looks.heads()
    assert maps.shape == (2, 3, 5) and [block.shape for block in heads] == [(2, 7, 3, 5)] * 2
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1)

    for picture in range(2):            # the paper's matrices, one picture at a time
        back = np.eye(extra + 15)
        if learner != "none":
            back = np.zeros((extra + 4, extra + 15))
            back[:extra, :extra] = np.eye(extra)
            weights = made["token_maps"].numpy()[picture]
            back[extra:, extra:] = weights / weights.sum(axis=1, keepdims=True)
        total = np.eye(extra + 15)
        for number, attention in enumerate(made["attention"]):
            attention = attention.numpy()[picture].astype(float)
            total = back @ total if number == after else total
            who = read[picture] if number >= after or learner == "none" else read[picture] @ back
            for head in range(7):
                seen = who @ attention[head]
                seen = seen @ back if number >= after else seen
                np.testing.assert_allclose(heads[number][picture, head].ravel(), seen[extra:], atol=1e-6)
                assert heads[number][picture, head].sum() == pytest.approx(1 - seen[:extra].sum(), abs=1e-5)
            total = (attention.mean(axis=0) + np.eye(len(attention[0]))) / 2 @ total
        shares = (read[picture] @ total)[extra:]
        np.testing.assert_allclose(maps[picture].ravel(), shares / shares.sum(), atol=1e-6)


def test_a_token_learner_behind_the_last_block_is_followed_back(make_model, images):
    model = make_model(pool="mean", token_learner="v1.1", learned_tokens=4, token_learner_after=2)
    made, looks = model.forward(images), look(model, images)
    shares = made["token_maps"].numpy().mean(axis=1)
    np.testing.assert_allclose(looks.heads()[1][1, 3].ravel(), shares[1] @ made["attention"][1].numpy()[1, 3],
                               atol=1e-6)
    for attention in made["attention"][::-1]:
        shares = np.stack([one @ (matrix.mean(axis=0) + np.eye(15)) / 2
                           for one, matrix in zip(shares, attention.numpy())])
    np.testing.assert_allclose(looks.rollout().reshape(4, 15), shares, atol=1e-6)


# ------------------------------------------------------------------------------------------ distance
def apart_by_hand(rows, columns, stride):
    """The mean distance of all pairs of centres, each with itself too."""
    places = [(stride * row, stride * column) for row in range(rows) for column in range(columns)]
    return np.mean([((a - c) ** 2 + (b - d) ** 2) ** 0.5 for a, b in places for c, d in places])


@pytest.mark.parametrize("rows, columns, stride", [(3, 5, 2), (1, 7, 4), (8, 8, 4)])
@pytest.mark.parametrize("extra", [0, 3])
def test_looking_everywhere_alike_goes_the_mean_distance(rows, columns, stride, extra):
    apart = TokenField(rows, columns, stride, stride).distances()[None]
    tokens, expected = rows * columns, apart_by_hand(rows, columns, stride)
    even = np.full((2, 3, extra + tokens, extra + tokens), 1 / (extra + tokens))
    np.testing.assert_allclose(mean_distance(even, apart, extra), np.full((2, 3), expected))
    none_at_itself = (1 - np.eye(extra + tokens))[None, None] / (extra + tokens - 1)        # locality attention
    np.testing.assert_allclose(mean_distance(none_at_itself, apart, extra), expected * tokens / (tokens - 1))
    np.testing.assert_array_equal(mean_distance(np.eye(extra + tokens)[None, None], apart, extra), 0)


def test_in_a_row_the_closed_form_holds():
    apart = TokenField(1, 11, 4, 3).distances()[None]           # of n places one step apart: (n^2 - 1) / (3 n) steps
    np.testing.assert_allclose(mean_distance(np.full((1, 1, 11, 11), 1 / 11), apart, 0), 3 * 120 / 33)


def test_a_head_that_looks_one_place_to_the_right_goes_one_stride_and_the_class_token_does_not_count():
    apart = TokenField(2, 3, 5, 4).distances()[None]
    right = np.zeros((1, 1, 7, 7))
    right[0, 0, 0, 0] = 1
    for place, at in zip(range(1, 7), (2, 3, 3, 5, 6, 6)):      # the last of a row looks at itself
        right[0, 0, place, [0, at]] = 0.9, 0.1                  # and all of them mostly at the class token
    np.testing.assert_allclose(mean_distance(right, apart, 1), 4 * 4 / 6)


@pytest.mark.parametrize("learner", LEARNERS)
def test_distances_of_a_model(make_model, images, learner):
    model = make_model(pool="cls", patch_size=4, **LEARNERS[learner])               # 2 x 4 patches, overlapping
    far, made = look(model, images).distances(), model.forward(images)
    assert far.shape == (2, 4, 7)
    places = [(2 * row, 2 * column) for row in range(2) for column in range(4)]
    between = np.array([[((a - c) ** 2 + (b - d) ** 2) ** 0.5 for c, d in places] for a, b in places])
    for number, attention in enumerate(made["attention"]):
        attention = attention.numpy()[1, 4, 1:, 1:]             # picture 1, head 4
        spread = between
        if number >= LEARNERS[learner].get("token_learner_after", 2):
            weights = made["token_maps"].numpy()[1]
            weights = weights / weights.sum(axis=1, keepdims=True)
            spread = np.array([[one @ between @ other for other in weights] for one in weights])
        expected = np.mean([row @ way / row.sum() for row, way in zip(attention, spread)])
        assert far[number, 1, 4] == pytest.approx(expected, rel=1e-5)


def test_where_nothing_of_the_picture_is_looked_at_the_distance_is_0(make_model, images):
    model = make_model(pool="cls", attention="locality", **{**LEARNERS["v1.1"], "learned_tokens": 1})
    assert (look(model, images).distances()[1] == 0).all()      # the one learned token sees the class token alone
    np.testing.assert_allclose(look(model, images).rollout().sum(axis=(1, 2)), 1)


# ------------------------------------------------------------------------------------------ places
@pytest.mark.parametrize("changes, field", [
    ({}, (3, 5, 2, 2)), ({"patch_size": 4, "patch_stride": 2}, (2, 4, 4, 2)),
    ({"embedding": "convolution"}, (3, 5, 2, 2)), ({"embedding": "shifted"}, (3, 5, 2, 2)),
    ({"embedding": "hybrid", "stem_widths": "5"}, (3, 5, 2, 2)),
    ({"embedding": "hybrid", "stem_widths": "5", "whitening": True}, (2, 4, 4, 2)),
    ({"embedding": "hybrid", "stem_widths": "", "whitening": True}, (5, 9, 2, 1)),
    ({"embedding": "compact", "stem_widths": "5", "image_shape": (12, 20, 3)}, (3, 5, 4, 4)),
])
def test_the_squares_of_the_tokens(make_model, changes, field):
    model = make_model(**changes)
    rows, columns, size, stride = found = TokenField.of(model.config)
    assert found == TokenField(*field)
    height, width, _ = model.config["image_shape"]
    values = np.random.default_rng(0).normal(size=(rows, columns))
    expected = np.array([[np.mean([values[r, c] for r in range(rows) for c in range(columns)
                                   if 0 <= y - stride * r < size and 0 <= x - stride * c < size])
                          for x in range(width)] for y in range(height)])
    np.testing.assert_allclose(found.spread(values), expected)


# ------------------------------------------------------------------------------------------ pictures
def test_parts_make_the_same_as_all_at_once(make_model, images, monkeypatch):
    model = make_model(pool="sequence")
    monkeypatch.setattr(attention_maps, "MOST_NUMBERS", 3 * 2 * 7 * 15 ** 2)
    parts = list(look_in_parts(model, images))
    assert [len(part.logits) for part in parts] == [3, 1]
    np.testing.assert_allclose(np.concatenate([part.rollout() for part in parts]), look(model, images).rollout(),
                               rtol=1e-5)


def test_a_model_without_attention_is_refused(images):
    model = build_model("resnet", image_shape=(6, 10, 3), num_classes=5, blocks_per_stage=1, first_width=3)
    with pytest.raises(ValueError, match="a ResNet has no attention: nothing can be said of where it looks"):
        look(model, images)
