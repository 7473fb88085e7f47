"""Trains a Vision Transformer on 1,797 small pictures of digits: python train_digits.py [--flag value ...]."""
import os

os.environ.setdefault("DML_VISIBLE_DEVICES", "0")       # the first DirectX 12 GPU, unless you chose another
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")      # TensorFlow: errors only

from vision_transformer import (AdamW, Classification, Trainer, announce, build_model, check_choice, finish,
                                load_dataset, make_mixing, make_schedule, open_run, read_settings, resumed, run_script,
                                seed_everything, set_precision, split_validation, steps_per_epoch, training_batches,
                                with_recipe)
from data_augmentations import augmentation

# Every constant is also a flag: --patch-size 8 is PATCH_SIZE = 8 for one run. In main, **c.below("model") hands the
# constants below "model" to a function, each as the argument of its name.

# --- choices ---
RECIPE = "sample"               # other constants, as a set: sample (these here), compact, hybrid or hybrid-large
SIZE = ""                       # the encoder's sizes: sample, tiny, small, base, large, huge, compact-2, -4, -6, -7

# --- data ---
DATASET = "digits"              # cifar10, cifar100 or digits
DATA_DIR = ""                   # stays empty: the digits come with scikit-learn

# --- validation ---
VALIDATION_SHARE = 0.15         # share of the training pictures that is kept back to choose the best weights

# --- model ---
ARCHITECTURE = "vit"            # vit, or resnet: a small CNN to compare with
EMBEDDING = "linear"            # how pictures become tokens: linear, convolution, shifted, hybrid or compact
PATCH_SIZE = 2                  # side of a square patch, pixels
PATCH_STRIDE = 2                # pixels from patch to patch; below PATCH_SIZE they overlap
STEM_WIDTHS = "64-128"          # hybrid's and compact's convolutions before the last: their channels
STEM_DEPTH = 1                  # hybrid: convolutions of each of these widths
WHITENING = False               # hybrid: begins with a convolution that is fitted to the data
MIRRORED_FILTERS = False        # hybrid: each filter has a twin that is its mirror image
POSITIONS = "learned"           # how tokens know their place: learned, sincos or none
REGISTER_TOKENS = 0             # learned tokens that show no part of the picture
NUMBER_OF_LAYERS = 4            # encoder blocks
EMBEDDING_DIM = 48              # width of a token
NUM_HEADS = 4                   # attention heads; must divide EMBEDDING_DIM
MLP_HIDDEN_DIM = 96             # hidden width of the blocks' MLPs and of the classifier
ATTENTION = "plain"             # plain, or locality: a learned temperature, no token looks at itself
NORM = "pre"                    # layer normalization: pre (before each branch) or post (after each sum)
LAYER_SCALE = 0.0               # first value of learned factors on the branches; 0: none
TOKEN_LEARNER = ""              # makes a few tokens of all, in mid-encoder: v1 or v1.1; empty: none
LEARNED_TOKENS = 8              # how many it makes
TOKEN_LEARNER_AFTER = 0         # behind which block; 0: half of them
POOL = "flatten"                # how tokens become features: flatten, cls (a class token), mean or sequence
CLASSIFIER = "mlp"              # mlp (one hidden layer) or linear
DROPOUT = 0.0                   # share of each block's branches that is dropped in training
CLASSIFIER_DROPOUT = 0.0        # share of the classifier's hidden layer that is dropped in training
STOCHASTIC_DEPTH = 0.0          # share of the pictures that skip each branch of the last block; less before it
BLOCKS_PER_STAGE = 3            # resnet: n; it is 6 n + 2 layers deep
FIRST_WIDTH = 16                # resnet: channels of the first stage

# --- augmentation ---
# Each picture draws its own amount; 0 is off.
FLIP_HORIZONTAL = 0.0           # probability of mirroring left and right
FLIP_VERTICAL = 0.0             # probability of mirroring up and down
ROTATION = 10.0                 # degrees, either way
SHEAR = 0.0                     # degrees, either way
ZOOM = 0.1                      # share, in or out
TRANSLATION = 0.125             # share of height and width, either way
CONTRAST = 0.0                  # share, up or down
BRIGHTNESS = 0.0                # share of the full range, up or down
SATURATION = 0.0                # share, up or down
HUE = 0.0                       # turns of the colour circle, either way; at most 0.5
ERASING = 0.0                   # probability of erasing a rectangle
FILL_MODE = "reflect"           # what a moved picture shows beyond its edge: reflect, nearest or constant (grey)
POLICY = ""                     # RandAugment (rand) or TrivialAugment (trivial), before all these; empty: none
POLICY_OPERATIONS = 2           # rand: operations on each picture
POLICY_STRENGTH = 9             # rand: from 0 to 30
PLAIN_SHARE = 0.0               # share of EPOCHS, at their end, that POLICY leaves alone

# --- mixing ---
MIXUP = 0.0                     # a of Beta(a, a): a picture's share beside another; 0: off
CUTMIX = 0.0                    # a of Beta(a, a): a box shows another picture; 0: off

# --- batches ---
BATCH_SIZE = 64                 # pictures in a step
ALTERNATING_FLIP = False        # mirrors every other epoch, by turns, in place of FLIP_HORIZONTAL

# --- learning rate ---
LEARNING_RATE = 0.001           # of all updates; the highest that a schedule reaches
SCHEDULE = "plateau"            # plateau, constant, cosine, one-cycle or step
WARMUP_EPOCHS = 0.0             # epochs of a line up before it; one-cycle: 0 is a quarter of training
PATIENCE = 10                   # plateau: epochs without a better validation accuracy until the rate is halved
MINIMUM_LEARNING_RATE = 0.00001 # plateau: where halving ends

# --- optimizer ---
MUON = False                    # updates of hidden matrices that move all their directions alike, in place of AdamW's
WEIGHT_DECAY = 0.0              # share of a weight, times the learning rate, that a step takes away
BETA_2 = 0.999                  # how much of the gradients' mean square a step keeps
CLIP_NORM = 0.0                 # gradients longer than this are shortened to it; 0: none
ACCUMULATION_STEPS = 1          # batches that make one update
AVERAGE = 0.0                   # how much of the weights' moving average an update keeps, such as 0.999; 0: no average

# --- task ---
LABEL_SMOOTHING = 0.0           # share of the right class's weight that goes to all
TOP_K = 3                       # also counts as right: the true class among the k likeliest

# --- training ---
EPOCHS = 40                     # passes over the training pictures
EARLY_STOPPING = 0              # epochs without a better validation accuracy until training ends; 0: never
SAM_RHO = 0.0                   # sharpness-aware minimization, such as 0.05: twice the work; 0: off
XLA = False                     # compiles the step with XLA: CPU and CUDA, not DirectML; not always faster
STEPS_PER_EXECUTION = 1         # steps in one call from Python
SAVE_EVERY = 100                # steps between saves of what --resume needs; each epoch's end saves too
SAVE_MINUTES = 5.0              # minutes after which it saves even so; 0: never for that

# --- run ---
SEED = 0                        # of the split, initial weights, order, augmentation and dropout
DETERMINISTIC = False           # bit-equal runs on one machine, a little slower
PRECISION = "float32"           # float32, mixed_bfloat16 (CPU, newer CUDA) or mixed_float16 (GPUs)
TEST_FLIP = False               # also reports the test accuracy averaged with the mirrored pictures
RUN_FOLDER = "runs"             # where run folders go
RESUME = ""                     # run folder to continue, such as runs/digits-001
DEBUG = False                   # on an error, show Python's traceback


def main(arguments=None):
    """Trains, validates after each epoch, evaluates once at the end; all of it goes to a run folder."""
    check_choice(os.environ["DML_VISIBLE_DEVICES"])
    c = resumed(with_recipe(read_settings(__file__, arguments)))
    seed_everything(c.SEED, c.DETERMINISTIC)
    set_precision(c.PRECISION)

    data = load_dataset(**c.below("data"))
    training, validation = split_validation(data.train, c.VALIDATION_SHARE, c.SEED)
    pixel_mean, pixel_deviation = training.pixel_statistics()
    steps = steps_per_epoch(len(training), c.BATCH_SIZE)
    schedule = make_schedule(c.SCHEDULE, steps, c.EPOCHS, c.WARMUP_EPOCHS)
    augment = augmentation(image_shape=data.image_shape, total_steps=schedule.total_steps, **c.below("augmentation"))
    mix = make_mixing(data.num_classes, **c.below("mixing"))

    model = build_model(
        image_shape=data.image_shape, num_classes=data.num_classes, pixel_mean=pixel_mean,
        pixel_deviation=pixel_deviation, seed=c.SEED, **c.below("model"))
    model.whiten(training.images)
    task = Classification(model, batch_size=c.BATCH_SIZE, training_labels=training.labels, **c.below("task"))
    optimizer = AdamW(
        model.trainable_variables, c.LEARNING_RATE, schedule=schedule, statistics=model.non_trainable_variables,
        **c.below("optimizer"))
    trainer = Trainer(
        task, optimizer, steps_per_epoch=steps, patience=c.PATIENCE, minimum_learning_rate=c.MINIMUM_LEARNING_RATE,
        **c.below("training"))

    trainer.save_to(open_run(c, data, model))           # from here on there is a run folder
    batches = training_batches(
        training, epochs=c.EPOCHS, seed=c.SEED, augment=augment, mix=mix, first_step=trainer.step,
        **c.below("batches"))
    announce(trainer, data, training, validation, batches)
    trainer.train(batches, validation)
    finish(trainer, data, flip=c.TEST_FLIP)


if __name__ == "__main__":
    run_script(main)
