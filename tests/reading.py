"""What a language model makes of a text that it reads from end to end, computed here."""

import functools
import math

import numpy as np
import tensorflow as tf


@functools.lru_cache(maxsize=4)
def _traced(model):
    # Step by step, as TensorFlow runs what is not traced, takes far longer.
    spec = tf.TensorSpec((1, None), tf.int32)
    return tf.function(lambda tokens: model(tokens), input_signature=[spec], autograph=False)


def logits_of(model, tokens):
    """What a Keras model says after each token, float64 of shape (n, words)."""
    return _traced(model)(np.asarray(tokens, "int32")[None])[0].numpy().astype("float64")


def cross_entropies(logits, targets):
    """-log p of each target, float64, of the targets' shape."""
    logits = np.asarray(logits, "float64")
    logits = logits - logits.max(axis=-1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(log_probabilities, np.asarray(targets)[..., None], -1)[..., 0]


def losses_of(model, tokens):
    """-log p of each token but the first."""
    return cross_entropies(logits_of(model, tokens[:-1]), tokens[1:])


def perplexity_of(model, tokens):
    """Of all tokens but the first."""
    return math.exp(losses_of(model, tokens).mean())
