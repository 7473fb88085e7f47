"""The static checker: each problem found where it was planted, none where there is none, the mend named."""
import pytest
import tensorflow as tf
from tensorflow import keras

from vision_transformer import directml
from vision_transformer.blocks import Attention
from vision_transformer.dry_run import dry_run, until_training

FLOAT, INT64 = tf.TensorSpec((4, 6)), tf.TensorSpec((4, 6), tf.int64)


def found(function, *specs):
    """{(problem, op): count} of what the checker says about a Python function of such tensors."""
    concrete = tf.function(function).get_concrete_function(*specs)
    return {(f.problem, f.op): f.count for f in directml.check(concrete)}


@pytest.mark.parametrize("op, dtype, device", [
    ("MatMul", "float32", "GPU"), ("MatMul", "float16", "GPU"), ("MatMul", "bfloat16", None),
    ("MatMul", "float64", None), ("Erf", "float32", "GPU"), ("Softmax", "float16", "GPU"),
    ("NoOp", "float32", "DEFAULT"),
])
def test_kernels_are_found_by_op_and_type(op, dtype, device):
    """As read in the plugin's source: float32 and float16 matrices, no bfloat16, no float64."""
    definition = tf.compat.v1.NodeDef(name="x", op=op)
    definition.attr["T"].type = tf.as_dtype(dtype).as_datatype_enum
    kernel = directml.find_kernel(definition, directml.op_def_registry.get(op))
    assert (kernel and kernel.device_type) == device


counter = {}        # a tf.function may not make its variables itself


@pytest.fixture(autouse=True)
def variables():
    counter["float"], counter["int32"] = tf.Variable(tf.ones((4, 6))), tf.Variable(0)
    counter["int64"] = tf.Variable(0, dtype=tf.int64)


@pytest.mark.parametrize("function, spec, expected", [
    (lambda x: tf.einsum("ij,kj->ik", x, x), FLOAT, {("leaves the GPU", "Einsum"): 1}),
    (lambda x: tf.matmul(x, x, transpose_b=True), FLOAT, {}),
    (lambda x: tf.tanh(tf.cast(x, tf.bfloat16)), FLOAT, {("leaves the GPU", "Cast"): 1, ("leaves the GPU", "Tanh"): 1}),
    (lambda x: tf.random.truncated_normal((4, 6)) + x, FLOAT, {("runs on the CPU", "TruncatedNormal"): 1}),
    (lambda x: tf.random.uniform((4, 6)) + x, FLOAT, {("compiled each step", "RandomUniform"): 1}),
    (lambda x: tf.random.stateless_uniform((4, 6), (1, counter["int32"])) + x, FLOAT, {}),
    (lambda x: counter["float"].assign_add(x), FLOAT, {("compiled each step", "AssignAddVariableOp"): 1}),
    (lambda x: counter["float"].assign_sub(x), FLOAT, {("compiled each step", "AssignSubVariableOp"): 1}),
    (lambda x: counter["float"].assign(counter["float"] + x), FLOAT, {}),
    (lambda x: counter["int32"].assign_add(1), FLOAT, {}),
    (lambda x: tf.argmax(x, axis=1) + 1, FLOAT, {}),
    (lambda x: tf.argmax(x, axis=1, output_type=tf.int32) + 1, FLOAT, {("stops the GPU", "AddV2"): 1}),
    (lambda x: tf.roll(x, tf.cast(counter["int64"], tf.int32), 0), FLOAT, None),
    (lambda x: tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.einsum("ij,ij->ij", y, x)), (0, x))[1], FLOAT,
     {("leaves the GPU", "Einsum"): 1}),
    (tf.function(lambda x: x * 2, jit_compile=True), FLOAT, {("fails", "_XlaMustCompile"): 1}),
    (lambda x: tf.reduce_sum(x), tf.TensorSpec((None, 6)), {("unknown shape", "input"): 1}),
    (lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: x, lambda: -x), FLOAT, {("stops the GPU", "Switch"): 1}),
])
def test_each_problem_is_found_and_its_right_form_is_not(function, spec, expected):
    if expected is None:        # what Roll's offset costs depends on the stack's graph, but it never goes unseen
        assert any(op == "Roll" for _, op in found(function, spec))
    else:
        assert found(function, spec) == expected


def test_work_that_the_code_puts_on_the_cpu_is_no_problem_but_fetching_from_the_gpu_for_it_is():
    def scalars(x):
        with tf.device("/CPU:0"):
            rate = tf.cos(tf.cast(counter["int32"], tf.float32))
        return x * rate

    def fetches(x):
        y = x * 2
        with tf.device("/CPU:0"):
            return tf.cos(y)

    assert found(scalars, FLOAT) == {}
    assert found(fetches, FLOAT) == {("stops the GPU", "Cos"): 1}


# ------------------------------------------------------------------------------------------ what users plant
def of_keras_model(layer, batch, optimizer):
    """Findings about a train step of Keras's own loop, with a layer of interest in the model."""
    inputs = keras.Input((15, 14), batch_size=batch)
    outputs = keras.layers.Dense(5)(keras.layers.Flatten()(layer(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    batches = tf.data.Dataset.from_tensors((tf.zeros((3, 15, 14)), tf.zeros(3, tf.int64))).unbatch()
    batches = batches.batch(3, drop_remainder=batch is not None)
    return directml.check(until_training(lambda: model.fit(batches, verbose=0)).functions()["train step"])


class OurAttention(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = Attention(7, 14)

    def call(self, x):
        return self.attention(x)[0]


def test_a_planted_multi_head_attention_is_named_with_its_mend():
    theirs = {f.op: f for f in of_keras_model(lambda x: keras.layers.MultiHeadAttention(2, 7)(x, x), 3, "sgd")}
    assert theirs["Einsum"].problem == "leaves the GPU" and theirs["Einsum"].count >= 6
    assert "vision_transformer.blocks.Attention" in theirs["Einsum"].mend
    assert any("multi_head_attention" in name for name in theirs["Einsum"].names)
    assert "Einsum" not in [f.op for f in of_keras_model(OurAttention(), 3, "sgd")]


def test_a_planted_schedule_for_each_step_is_named_with_its_mend():
    """By the op that compiles it in, which both stacks have; Keras 2.10's Adam is made of it."""
    weights, mean, square = (tf.Variable(tf.ones(7)) for _ in range(3))

    def apply(rate):
        tf.raw_ops.ResourceApplyAdam(
            var=weights.handle, m=mean.handle, v=square.handle, beta1_power=0.5, beta2_power=0.5, beta1=0.9, beta2=0.99,
            lr=rate(tf.cast(counter["int64"], tf.float32)), epsilon=1e-7, grad=tf.ones(7))
        return weights.read_value()

    def findings(rate):
        return {f.problem: f for f in directml.check(tf.function(lambda: apply(rate)).get_concrete_function())}

    scheduled = findings(keras.optimizers.schedules.CosineDecay(0.1, 100))["compiled each step"]
    assert scheduled.op == "ResourceApplyAdam"
    assert "schedule" in scheduled.mend and "once an epoch" in scheduled.mend
    assert "compiled each step" not in findings(lambda step: 0.1)


def test_a_planted_unknown_batch_is_named_with_its_mend():
    unknown = [f for f in of_keras_model(keras.layers.Dense(14), None, "sgd") if f.problem == "unknown shape"]
    assert "drop_remainder=True" in unknown[0].mend and any("None" in name for f in unknown for name in f.names)
    assert not [f for f in of_keras_model(keras.layers.Dense(14), 3, "sgd") if f.problem == "unknown shape"]


@pytest.mark.parametrize("flags", [
    [], ["--pool", "cls", "--dropout", "0.1"], ["--pool", "mean", "--deterministic"], ["--patch-stride", "1"]])
def test_the_projects_own_steps_have_no_problem(flags):
    functions = dry_run("train_digits.py", flags).functions()
    assert list(functions) == ["train step", "evaluate, predict"]
    assert [directml.check(function) for function in functions.values()] == [[], []]


def test_a_tensorflow_for_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: True)
    directml.registered.cache_clear()
    with pytest.raises(RuntimeError, match="built for CUDA"):
        found(lambda x: x + 1, FLOAT)
    directml.registered.cache_clear()
