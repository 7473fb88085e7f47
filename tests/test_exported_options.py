"""Each option of the model as ONNX and TensorFlow Lite, ONNX of nothing but what DirectML has a kernel for."""
import pytest
from conftest import SIZES
from test_exports import NAMES, PICTURES, shaken
from test_options import OPTIONS, RUN

from vision_transformer.architectures import build_model
from vision_transformer.exports import export

# Of the DirectML kernels that ONNX Runtime lists (docs/OperatorKernels.md) those needed here, all of them at opset 13.
DIRECTML_KERNELS = {
    "Add", "BatchNormalization", "Cast", "Concat", "Conv", "Erf", "Gather", "GlobalAveragePool", "MatMul", "MaxPool",
    "Mul", "Pad", "Reciprocal", "ReduceMean", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split",
    "Sqrt", "Squeeze", "Sub", "Tile", "Transpose"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_the_model_can_be_exported(kind, option, tmp_path):
    model = shaken(build_model(**{**SIZES, **RUN, **OPTIONS[option][0]}))
    difference, agreement = export(kind, model, NAMES, tmp_path / "exported", PICTURES)
    assert agreement == 1 and difference < 1e-5
    if kind == "onnx":
        import onnx  # here: the emulated device's environment has none

        assert {node.op_type for node in onnx.load(str(tmp_path / "exported")).graph.node} <= DIRECTML_KERNELS
