import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x import decoding
from mtl_t5x.models import architectures, t5

CONFIG = t5.T5Config(
    vocab_size=23,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=32,
)


@pytest.fixture(scope="module")
def model_and_params():
    model = architectures.TextToText(CONFIG)
    ids = jnp.zeros((1, 5), jnp.int32)
    variables = model.init(jax.random.key(3), ids, ids, method="logits")
    return model, nn.meta.unbox(variables)["params"]


def without_cache(model, params, inputs, max_length):
    """Greedy decoding as its definition says, the whole prefix anew for every token."""
    inputs = jnp.asarray(inputs)
    decoded = np.zeros((len(inputs), 0), np.int32)
    for _ in range(max_length):
        shifted = np.pad(decoded, ((0, 0), (1, 0)))
        logits = model.apply({"params": params}, inputs, jnp.asarray(shifted), method="logits")
        chosen = np.array(np.argmax(logits[:, -1], axis=-1))
        chosen[(decoded == 1).any(axis=1)] = 0
        decoded = np.concatenate([decoded, chosen[:, None].astype(np.int32)], axis=1)
    return decoded


def test_cached_equals_uncached(model_and_params):
    model, params = model_and_params
    inputs = np.random.default_rng(0).integers(2, 23, (32, 9)).astype(np.int32)
    inputs[:16, 6:] = 0
    expected = without_cache(model, params, inputs, 12)
    decoded = decoding.greedy(params, jnp.asarray(inputs), model=model, max_length=12)
    np.testing.assert_array_equal(decoded, expected)
    assert len({tuple(row) for row in expected}) > 4, "the answers should differ for this to tell"


def test_what_follows_the_end_is_padding(model_and_params):
    model, params = model_and_params
    # A large bias for the end of sequence can't be set in a model without biases: a table row can.
    kernel = params["decoder"]["logits_dense"]["kernel"]
    params = jax.tree.map(lambda x: x, params)
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].set(kernel[:, 7] * 3)
    inputs = np.random.default_rng(1).integers(2, 23, (64, 7)).astype(np.int32)
    decoded = np.asarray(decoding.greedy(params, jnp.asarray(inputs), model=model, max_length=10))
    np.testing.assert_array_equal(decoded, without_cache(model, params, inputs, 10))
    ended = decoded == 1
    assert ended.any() and not ended.any(axis=1).all()
    after = np.cumsum(ended, axis=1) - ended > 0
    assert (decoded[after] == 0).all()
