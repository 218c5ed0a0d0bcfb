"""A small T5 with random weights, and a batch, for the tests of every module."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from mtl_t5x.data import batching
from mtl_t5x.models import architectures, t5

# 4 heads of 6 against 32 features: no kernel is square, so a forgotten transposition shows.
CONFIG = t5.T5Config(
    vocab_size=96,
    emb_dim=32,
    num_heads=4,
    num_encoder_layers=1,
    num_decoder_layers=2,
    head_dim=6,
    mlp_dim=40,
)


def params(config=CONFIG, seed=0):
    """Parameters of one decoder for all, in buffers of their own."""
    return jax.tree.map(jnp.array, _params(config, seed))


@functools.cache
def _params(config, seed):
    ids = jnp.ones((1, 4), jnp.int32)
    model = architectures.TextToText(config)
    return jax.device_get(params_of(model, seed, ids, ids, method="logits"))


def params_of(model, seed, *arguments, method=None):
    """Parameters drawn without compiling anything; the norm scales are not all one."""
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), *arguments, method=method))
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, leaf in flatten_dict(nn.meta.unbox(boxed)["params"], sep="/").items():
        value = rng.normal(size=leaf.shape)
        if name.endswith("/kernel"):
            value = value / np.sqrt(leaf.shape[-2])
        if name.endswith("/scale"):
            value = 1 + 0.2 * value
        drawn[name] = jnp.asarray(value, jnp.float32)
    return unflatten_dict(drawn, sep="/")


def ids(rng, lengths, width, vocab_size=CONFIG.vocab_size):
    """A row of random ids per length, padded with 0: `[*lengths, width]`."""
    lengths = np.asarray(lengths)
    drawn = rng.integers(2, vocab_size, (*lengths.shape, width))
    return jnp.asarray(np.where(np.arange(width) < lengths[..., None], drawn, 0), jnp.int32)


def batch(seed, tasks=3, examples=4, inputs=12, targets=6):
    """Every task's padded examples, `[task, batch, length]`, of unequal lengths."""
    rng = np.random.default_rng(seed)
    encoder_inputs = ids(rng, rng.integers(3, inputs + 1, (tasks, examples)), inputs)
    target_ids = ids(rng, rng.integers(1, targets + 1, (tasks, examples)), targets)
    shifted = jnp.pad(target_ids[..., :-1], ((0, 0), (0, 0), (1, 0)))
    return {
        "encoder_input_tokens": encoder_inputs,
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": target_ids,
        "decoder_loss_weights": (target_ids != 0).astype(jnp.float32),
    }


def drawn(batches):
    """Batches of every task, as what is measured at a fixed point: row k is of task k."""
    return [
        batching.Drawn(batch, np.arange(len(batch["encoder_input_tokens"]))) for batch in batches
    ]


def transformers_t5(config):
    """transformers' T5 1.1 of the same sizes, in PyTorch, as `transformers` initialises it."""
    import torch
    import transformers

    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.emb_dim,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            num_heads=config.num_heads,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    )
    # Newer versions tie every fresh T5; published T5 1.1 weights are untied when read.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def randomise(model, seed=0):
    """Weights as `params` draws them, for a PyTorch model: no scale is one, no product trivial."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(generator=generator)
            if name.endswith("layer_norm.weight"):
                weight.mul_(0.2).add_(1)
            elif name != "shared.weight" and "relative" not in name:
                weight.div_(weight.shape[1] ** 0.5)
    return model
