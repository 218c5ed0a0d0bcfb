"""The model: properties that a T5 must have, and agreement with PyTorch transformers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mtl_t5x.models import architectures, layers, pretrained
from tests import random_t5

CONFIG = random_t5.CONFIG
MODEL = architectures.TextToText(CONFIG)
DEEPER = dataclasses.replace(CONFIG, num_encoder_layers=2, num_decoder_layers=3)
SHALLOW = dataclasses.replace(CONFIG, num_decoder_layers=1)


@pytest.fixture(scope="module")
def params():
    return random_t5.params(CONFIG)


@functools.partial(jax.jit, static_argnames=("model", "method", "deterministic"))
def apply(model, params, *args, method, **kwargs):
    return model.apply({"params": params}, *args, method=method, **kwargs)


def encode(params, inputs):
    return apply(MODEL, params, inputs, method="encode")


def logits(params, inputs, decoder_inputs):
    return apply(MODEL, params, inputs, decoder_inputs, method="logits")


# Names


def expected_shapes(config):
    """T5X's names and shapes, written out."""
    embed, joined = config.emb_dim, config.num_heads * config.head_dim
    shapes = {
        "token_embedder/embedding": (config.vocab_size, embed),
        "encoder/encoder_norm/scale": (embed,),
        "decoder/decoder_norm/scale": (embed,),
        "decoder/logits_dense/kernel": (embed, config.vocab_size),
        "encoder/relpos_bias/rel_embedding": (config.num_heads, config.relpos_buckets),
        "decoder/relpos_bias/rel_embedding": (config.num_heads, config.relpos_buckets),
    }
    sublayers = {
        "encoder": {"attention": "pre_attention_layer_norm", "mlp": "pre_mlp_layer_norm"},
        "decoder": {
            "self_attention": "pre_self_attention_layer_norm",
            "encoder_decoder_attention": "pre_cross_attention_layer_norm",
            "mlp": "pre_mlp_layer_norm",
        },
    }
    numbers = {"encoder": config.num_encoder_layers, "decoder": config.num_decoder_layers}
    for stack, number in numbers.items():
        for i in range(number):
            for sublayer, norm in sublayers[stack].items():
                prefix = f"{stack}/layers_{i}"
                shapes[f"{prefix}/{norm}/scale"] = (embed,)
                if sublayer == "mlp":
                    shapes[f"{prefix}/mlp/wi_0/kernel"] = (embed, config.mlp_dim)
                    shapes[f"{prefix}/mlp/wi_1/kernel"] = (embed, config.mlp_dim)
                    shapes[f"{prefix}/mlp/wo/kernel"] = (config.mlp_dim, embed)
                else:
                    for name in ("query", "key", "value"):
                        shapes[f"{prefix}/{sublayer}/{name}/kernel"] = (embed, joined)
                    shapes[f"{prefix}/{sublayer}/out/kernel"] = (joined, embed)
    return shapes


def test_names_and_shapes_are_t5x(params):
    assert {n: a.shape for n, a in flatten_dict(params, sep="/").items()} == expected_shapes(CONFIG)


def test_initial_scales():
    """T5's initializers: kernels 1/sqrt(inputs), the query's by 1/sqrt(head_dim) less, table 1."""
    config = dataclasses.replace(SHALLOW, emb_dim=256, head_dim=64, mlp_dim=256, vocab_size=512)
    model = architectures.TextToText(config)
    ids = jnp.ones((1, 2), jnp.int32)
    init = jax.jit(functools.partial(model.init, method="logits"))
    boxed = init(jax.random.key(0), ids, ids)["params"]
    initial = flatten_dict(boxed, sep="/")
    deviations = {
        name: float(np.std(leaf.unbox()))
        for name, leaf in initial.items()
        if name.endswith(("kernel", "embedding"))
    }
    for name, expected in {
        "encoder/layers_0/attention/query/kernel": 1 / np.sqrt(256 * 64),
        "encoder/layers_0/attention/key/kernel": 1 / np.sqrt(256),
        "encoder/layers_0/mlp/wo/kernel": 1 / np.sqrt(256),
        "decoder/layers_0/encoder_decoder_attention/out/kernel": 1 / np.sqrt(256),
        "decoder/logits_dense/kernel": 1 / np.sqrt(256),
        "token_embedder/embedding": 1.0,
    }.items():
        assert deviations[name] == pytest.approx(expected, rel=0.05), name
    assert all(
        np.all(np.asarray(leaf.unbox()) == 1) for n, leaf in initial.items() if n.endswith("scale")
    )


# Relative positions


def exact_bucket(relative_position, bidirectional, num_buckets, max_distance):
    """The bucket by integers alone: no logarithm, no rounding."""
    offset = 0
    if bidirectional:
        num_buckets //= 2
        offset = num_buckets if relative_position > 0 else 0
        distance = abs(relative_position)
    else:
        distance = max(-relative_position, 0)
    exact = num_buckets // 2
    if distance < exact:
        return offset + distance
    # The largest j with (distance / exact)^(far buckets) >= (max_distance / exact)^j.
    far, j = num_buckets - exact, 0
    while j < far - 1 and distance**far * exact ** (j + 1) >= max_distance ** (j + 1) * exact**far:
        j += 1
    return offset + exact + j


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (12, 20), (64, 1000)])
def test_relative_position_bucket(bidirectional, num_buckets, max_distance):
    positions = np.arange(-1100, 1101)
    buckets = layers.relative_position_bucket(positions, bidirectional, num_buckets, max_distance)
    expected = [exact_bucket(int(p), bidirectional, num_buckets, max_distance) for p in positions]
    np.testing.assert_array_equal(buckets, expected)


def test_relative_position_bucket_by_hand():
    """8 exact buckets, then 8 * 2^(1/2), 16, 16 * 2^(1/2), 32, …; 16 more for keys that follow."""
    distances = {0: 0, 7: 7, 8: 8, 11: 8, 12: 9, 15: 9, 16: 10, 22: 10, 23: 11, 32: 12, 64: 14}
    distances |= {90: 14, 91: 15, 128: 15, 10_000: 15}
    before = np.array([-d for d in distances])
    expected = np.array(list(distances.values()))
    np.testing.assert_array_equal(layers.relative_position_bucket(before, True, 32, 128), expected)
    after = layers.relative_position_bucket(-before[1:], True, 32, 128)
    np.testing.assert_array_equal(after, expected[1:] + 16)
    causal = {5: 0, 0: 0, -15: 15, -16: 16, -18: 16, -19: 17, -113: 31, -112: 30, -500: 31}
    np.testing.assert_array_equal(
        layers.relative_position_bucket(np.array(list(causal)), False, 32, 128),
        list(causal.values()),
    )


# What may be seen


def test_decoder_is_causal(params):
    """d logits[t] / d decoder input [s] is zero for s > t and not for s <= t."""
    rng = np.random.default_rng(0)
    inputs, decoder_inputs = random_t5.ids(rng, [9], 12), random_t5.ids(rng, [7], 7)

    def outputs(embedded):
        def call(model):
            encoded = model.encode(inputs)
            return model.decoder(embedded, encoded, inputs != 0)

        out = MODEL.apply({"params": params}, method=call)
        return jnp.sum(jnp.sin(out), axis=(0, 2))  # [t]

    embedded = params["token_embedder"]["embedding"][decoder_inputs]
    jacobian = jax.jit(jax.jacrev(outputs))(embedded)  # [t, 1, s, embed]
    seen = jnp.abs(jacobian).max(axis=(1, 3)) > 0
    np.testing.assert_array_equal(seen, np.tril(np.ones((7, 7), bool)))


def test_encoder_sees_every_token_but_no_padding(params):
    inputs = random_t5.ids(np.random.default_rng(0), [5], 8)

    def outputs(embedded):
        def call(model):
            return model.encoder(embedded, inputs != 0)

        return jnp.sum(jnp.sin(MODEL.apply({"params": params}, method=call)), axis=(0, 2))

    embedded = params["token_embedder"]["embedding"][inputs]
    jacobian = jax.jit(jax.jacrev(outputs))(embedded)
    seen = jnp.abs(jacobian).max(axis=(1, 3)) > 0
    np.testing.assert_array_equal(seen[:5], np.tile(np.arange(8) < 5, (5, 1)))


def test_padding_and_other_rows_change_nothing(params):
    rng = np.random.default_rng(0)
    inputs, decoder_inputs = random_t5.ids(rng, [6, 3, 10], 10), random_t5.ids(rng, [4, 2, 5], 5)
    padded = jnp.pad(inputs, ((0, 0), (0, 7)))
    decoder_padded = jnp.pad(decoder_inputs, ((0, 0), (0, 3)))
    together = logits(params, inputs, decoder_inputs)
    np.testing.assert_allclose(
        logits(params, padded, decoder_padded)[:, :5], together, rtol=0, atol=2e-5
    )
    alone = logits(params, inputs[:1, :6], decoder_inputs[:1])
    np.testing.assert_allclose(alone[0], together[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        encode(params, padded)[1, :3], encode(params, inputs[1:2, :3])[0], rtol=0, atol=2e-5
    )


def test_task_axis_equals_flat_batch(params):
    batch = random_t5.batch(0)
    inputs, decoder_inputs = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    stacked = logits(params, inputs, decoder_inputs)
    flat = logits(params, inputs.reshape(-1, 12), decoder_inputs.reshape(-1, 6))
    np.testing.assert_allclose(stacked.reshape(flat.shape), flat, rtol=0, atol=2e-5)
    losses = apply(MODEL, params, batch, method="__call__")
    for k in range(3):
        alone = jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], batch)
        np.testing.assert_allclose(
            losses[k], apply(MODEL, params, alone, method="__call__")[0], rtol=1e-6
        )


@pytest.mark.parametrize("leading", [(3,), (2, 3)])
def test_cached_decoding_equals_teacher_forcing(params, leading):
    rng = np.random.default_rng(0)
    inputs = random_t5.ids(rng, np.resize([6, 3, 10], leading), 10)
    decoder_inputs = random_t5.ids(rng, np.full(leading, 8), 8)
    expected = logits(params, inputs, decoder_inputs)
    encoded = encode(params, inputs)

    @jax.jit
    def step(cache, token, position):
        return MODEL.apply(
            {"params": params, **cache},
            token,
            encoded,
            inputs,
            position,
            8,
            method="decode_step",
            mutable=["self_cache", "cross_cache"],
        )

    cache, steps = {}, []
    for t in range(8):
        out, cache = step(cache, decoder_inputs[..., t : t + 1], jnp.int32(t))
        steps.append(out)
    np.testing.assert_allclose(jnp.concatenate(steps, axis=-2), expected, rtol=0, atol=2e-5)


# Precision and dropout


def test_bfloat16():
    """Activations and logits in bfloat16, parameters and gradients in float32, close to float32."""
    half = architectures.TextToText(dataclasses.replace(SHALLOW, dtype="bfloat16"))
    params, batch = random_t5.params(SHALLOW), random_t5.batch(0)
    inputs, decoder_inputs = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    ids = jnp.ones((1, 2), jnp.int32)
    drawn = jax.eval_shape(lambda: half.init(jax.random.key(0), ids, ids, method="logits"))
    assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {jnp.dtype("float32")}
    assert apply(half, params, inputs, method="encode").dtype == jnp.bfloat16
    approximate = apply(half, params, inputs, decoder_inputs, method="logits")
    full = architectures.TextToText(SHALLOW)
    exact = apply(full, params, inputs, decoder_inputs, method="logits")
    assert approximate.dtype == jnp.bfloat16
    error = jnp.linalg.norm(approximate - exact) / jnp.linalg.norm(exact)
    assert 0 < error < 0.03  # a bfloat16 has 8 significant bits: 0.4 % a rounding
    gradients = jax.eval_shape(jax.grad(lambda p: half.apply({"params": p}, batch).sum()), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("loop", [False, True], ids=["", "loop"])
def test_dropout_acts_in_training_alone(loop):
    config = dataclasses.replace(SHALLOW, scan_layers=loop)
    params, batch = random_t5.params(SHALLOW), random_t5.batch(0)
    never = architectures.TextToText(config)
    dropping = architectures.TextToText(dataclasses.replace(config, dropout_rate=0.3))

    def losses(model, seed, deterministic):
        rngs = {"dropout": jax.random.key(seed)}
        return apply(
            model, params, batch, method="__call__", deterministic=deterministic, rngs=rngs
        )

    plain = losses(never, 0, True)
    np.testing.assert_array_equal(losses(dropping, 0, True), plain)
    np.testing.assert_array_equal(losses(never, 0, False), plain)
    first = losses(dropping, 0, False)
    assert np.all(np.abs(first - plain) > 1e-4)
    np.testing.assert_array_equal(losses(dropping, 0, False), first)
    assert np.all(np.abs(losses(dropping, 1, False) - first) > 1e-4)


# Against PyTorch


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """transformers' T5 1.1 with random weights of its own, and our parameters read from it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model = random_t5.randomise(random_t5.transformers_t5(DEEPER)).eval()
    folder = tmp_path_factory.mktemp("huggingface")
    model.save_pretrained(folder)
    assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    return torch, model, pretrained.load_params(folder)


@pytest.mark.reference
@pytest.mark.parametrize("width", [24, 200])
def test_agrees_with_transformers(reference, width):
    """Encodings, logits and loss on unequal lengths; 200 reaches the farthest buckets."""
    torch, model, params = reference
    rng = np.random.default_rng(width)
    inputs = random_t5.ids(rng, [width, width // 2, 3], width)
    targets = random_t5.ids(rng, [width - 20, width // 3, 2], width - 20)
    decoder_inputs = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(np.asarray(inputs)).long(),
            attention_mask=torch.tensor(np.asarray(inputs != 0)),
            labels=torch.tensor(np.where(targets == 0, -100, targets)).long(),
        )
    real = np.asarray(inputs != 0)
    ours = architectures.TextToText(DEEPER)
    encoded = apply(ours, params, inputs, method="encode")
    logits = apply(ours, params, inputs, decoder_inputs, method="logits")
    np.testing.assert_allclose(
        encoded[real], out.encoder_last_hidden_state.numpy()[real], rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(logits, out.logits.numpy(), rtol=0, atol=1e-4)
    # One task of three examples: its loss is the mean over all target tokens, as in transformers.
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": decoder_inputs,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets != 0).astype(jnp.float32),
    }
    batch = jax.tree.map(lambda leaf: leaf[None], batch)
    losses = apply(ours, params, batch, method="__call__")
    np.testing.assert_allclose(losses[0], out.loss.item(), rtol=1e-5)


@pytest.mark.reference
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_agree_with_transformers(bidirectional):
    torch = pytest.importorskip("torch")
    attention = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    positions = np.arange(-2000, 2001)
    expected = attention._relative_position_bucket(
        torch.tensor(positions), bidirectional, num_buckets=32, max_distance=128
    )
    buckets = layers.relative_position_bucket(positions, bidirectional, 32, 128)
    np.testing.assert_array_equal(buckets, expected.numpy())
