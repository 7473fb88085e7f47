"""Models by name: each gets what it takes, any config makes its model again, mistakes are named."""
import json

import pytest
from conftest import SIZES

from vision_transformer.architectures import ARCHITECTURES, build_model

ALL = {**SIZES, "blocks_per_stage": 1, "first_width": 7, "pool": "mean", "pixel_mean": [1, 2, 3]}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_takes_its_own_arguments(architecture):
    model = build_model(architecture, **ALL)
    assert type(model) is ARCHITECTURES[architecture]
    taken = {name: value for name, value in ALL.items() if name in model.config}
    assert {name: model.config[name] for name in taken} == taken
    assert set(ALL) - set(taken) == ({"blocks_per_stage", "first_width"} if architecture == "vit" else
                                     {"patch_size", "patch_stride", "number_of_layers", "embedding_dim", "num_heads",
                                      "mlp_hidden_dim", "pool"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_config_makes_its_model_again(architecture):
    model = build_model(architecture, **ALL)
    config = json.loads(json.dumps(model.get_config()))
    assert build_model(**config).get_config() == model.get_config()
    assert type(model).from_config(config).get_config() == model.get_config()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="ARCHITECTURE 'cnn' is not known; choose one of vit, resnet"):
        build_model("cnn", **ALL)
    with pytest.raises(TypeError, match="no architecture takes embeding, pol"):
        build_model(**ALL, pol="mean", embeding="linear")
