"""Trains a Vision Transformer on CIFAR-100: python train_cifar100.py [--flag value ...] (--help lists the flags)."""
import os

os.environ.setdefault("DML_VISIBLE_DEVICES", "0")       # the first DirectX 12 GPU, unless you chose another
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")      # TensorFlow: errors only

from data_augmentations import augmentation
from vision_transformer import (Adam, Classification, Trainer, VisionTransformer, announce, check_choice, finish,
                                load_dataset, open_run, read_settings, resumed, run_script, seed_everything,
                                split_validation, steps_per_epoch, training_batches)

# Every constant is also a flag: --patch-size 8 is PATCH_SIZE = 8 for one run.

# --- data ---
DATASET = "cifar100"            # cifar10, cifar100 or digits
DATA_DIR = ""                   # folder with the official files; empty: download them
VALIDATION_SHARE = 0.15         # share of the training pictures that is kept back to choose the best weights

# --- model ---
PATCH_SIZE = 4                  # side of a square patch, pixels
PATCH_STRIDE = 4                # pixels from patch to patch; below PATCH_SIZE they overlap
NUMBER_OF_LAYERS = 8            # encoder blocks
EMBEDDING_DIM = 64              # width of a token
NUM_HEADS = 8                   # attention heads; must divide EMBEDDING_DIM
MLP_HIDDEN_DIM = 256            # hidden width of the blocks' MLPs and of the classifier
POOL = "flatten"                # how tokens become features: flatten, cls (a class token) or mean
DROPOUT = 0.1                   # share of each block's branches that is dropped in training
CLASSIFIER_DROPOUT = 0.1        # share of the classifier's hidden layer that is dropped in training

# --- augmentation: each picture draws its own amount; 0 is off ---
FLIP_HORIZONTAL = 0.5           # probability of mirroring left and right
FLIP_VERTICAL = 0.0             # probability of mirroring up and down
ROTATION = 0.0                  # degrees, either way
SHEAR = 0.0                     # degrees, either way
ZOOM = 0.0                      # share, in or out
TRANSLATION = 0.125             # share of height and width, either way
CONTRAST = 0.2                  # share, up or down
BRIGHTNESS = 0.1                # share of the full range, up or down
SATURATION = 0.2                # share, up or down
HUE = 0.0                       # turns of the colour circle, either way; at most 0.5
ERASING = 0.0                   # probability of erasing a rectangle

# --- optimization ---
LEARNING_RATE = 0.001           # Adam's
BATCH_SIZE = 512                # pictures in a step
EPOCHS = 100                    # passes over the training pictures
PATIENCE = 10                   # epochs without a better validation accuracy until the learning rate is halved
MINIMUM_LEARNING_RATE = 0.00001 # where halving ends
EARLY_STOPPING = 0              # epochs without a better validation accuracy until training ends; 0: never

# --- run ---
SEED = 0                        # of the split, initial weights, order, augmentation and dropout
DETERMINISTIC = False           # bit-equal runs on one machine, a little slower
TOP_K = 5                       # also counts as right: the true class among the k likeliest
RUN_FOLDER = "runs"             # where run folders go
RESUME = ""                     # run folder to continue, such as runs/cifar100-001
SAVE_EVERY = 100                # steps between saves of what --resume needs; each epoch's end saves too
DEBUG = False                   # on an error, show Python's traceback


def main(arguments=None):
    """Trains, validates after each epoch, evaluates once at the end; all of it goes to a run folder."""
    check_choice(os.environ["DML_VISIBLE_DEVICES"])
    c = resumed(read_settings(__file__, arguments))
    seed_everything(c.SEED, c.DETERMINISTIC)

    data = load_dataset(c.DATASET, c.DATA_DIR)
    training, validation = split_validation(data.train, c.VALIDATION_SHARE, c.SEED)
    pixel_mean, pixel_deviation = training.pixel_statistics()
    augment = augmentation(
        flip_horizontal=c.FLIP_HORIZONTAL, flip_vertical=c.FLIP_VERTICAL, rotation=c.ROTATION, shear=c.SHEAR,
        zoom=c.ZOOM, translation=c.TRANSLATION, contrast=c.CONTRAST, brightness=c.BRIGHTNESS,
        saturation=c.SATURATION, hue=c.HUE, erasing=c.ERASING)

    model = VisionTransformer(
        image_shape=data.image_shape, num_classes=data.num_classes, patch_size=c.PATCH_SIZE,
        patch_stride=c.PATCH_STRIDE, number_of_layers=c.NUMBER_OF_LAYERS, embedding_dim=c.EMBEDDING_DIM,
        num_heads=c.NUM_HEADS, mlp_hidden_dim=c.MLP_HIDDEN_DIM, pool=c.POOL, dropout=c.DROPOUT,
        classifier_dropout=c.CLASSIFIER_DROPOUT, pixel_mean=pixel_mean, pixel_deviation=pixel_deviation, seed=c.SEED)
    task = Classification(model, c.TOP_K, c.BATCH_SIZE)
    optimizer = Adam(model.trainable_variables, c.LEARNING_RATE)
    trainer = Trainer(
        task, optimizer, steps_per_epoch=steps_per_epoch(len(training), c.BATCH_SIZE), epochs=c.EPOCHS,
        patience=c.PATIENCE, minimum_learning_rate=c.MINIMUM_LEARNING_RATE, early_stopping=c.EARLY_STOPPING,
        save_every=c.SAVE_EVERY)
    samples = augment(training.images[:64], (c.SEED, 0))

    trainer.save_to(open_run(c, data, model))           # from here on there is a run folder
    announce(trainer, data, training, validation, samples)
    batches = training_batches(training, batch_size=c.BATCH_SIZE, epochs=c.EPOCHS, seed=c.SEED, augment=augment,
                               first_step=trainer.step)
    trainer.train(batches, validation)
    finish(trainer, data)


if __name__ == "__main__":
    run_script(main)
