"""Every architecture: losses, per-task gradients of mixed heads, and a shared start."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mtl_t5x.data import heads
from mtl_t5x.gradients import one_pass
from mtl_t5x.models import architectures, decoding, losses, pretrained, t5
from tests import random_t5

CONFIG = t5.T5Config(
    vocab_size=41,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=24,
)
HEADS = (
    heads.Classification(2),
    heads.Decoder(),
    heads.Regression(0.0, 5.0),
    heads.Span(),
    heads.Span(no_answer="none"),
    heads.Classification(3),
    heads.Decoder(),
)
TASKS, BATCH, INPUTS, TARGETS = len(HEADS), 3, 9, 5


def models():
    return [
        architectures.TextToText(CONFIG),
        architectures.TextToTextID(CONFIG),
        architectures.Canonical(CONFIG, heads=HEADS),
    ]


OWN = architectures.TextToTextID(CONFIG, own_embeddings=True)
T5_1_0 = dataclasses.replace(CONFIG, mlp_activations=("relu",), logits_via_embedding=True)
TIED = architectures.TextToText(T5_1_0)


GROUPS = {"all": "(encoder|token_embedder)/.*", "encoder": one_pass.ENCODER} | dict(
    one_pass.ENCODER_LAYERS
)


def a_batch(seed: int = 0) -> dict:
    generator = np.random.default_rng(seed)
    inputs = generator.integers(2, 41, (TASKS, BATCH, INPUTS))
    inputs[:, 0, 6:] = 0
    targets = generator.integers(2, 41, (TASKS, BATCH, TARGETS))
    targets[:, 1, 3:] = 0
    span = np.sort(generator.integers(0, 6, (TASKS, BATCH, 2)), axis=-1)
    label = generator.integers(0, 2, (TASKS, BATCH, 1))
    head_targets = np.concatenate([label, span], axis=-1)
    head_targets[3:5, :, 0] = 1
    head_targets[4, 0] = (0, -1, -1)  # unanswerable
    head_targets[3, 0] = (1, -1, -1)  # a span that was cut off
    return {
        "encoder_input_tokens": jnp.asarray(inputs, jnp.int32),
        "decoder_input_tokens": jnp.asarray(
            np.pad(targets, ((0, 0), (0, 0), (1, 0)))[..., :-1], jnp.int32
        ),
        "decoder_target_tokens": jnp.asarray(targets, jnp.int32),
        "decoder_loss_weights": jnp.asarray(targets > 0, jnp.int32),
        heads.FEATURE: jnp.asarray(head_targets, jnp.float32),
    }


def init(model, seed: int = 0):
    return random_t5.params_of(model, seed, a_batch())


REMAT, LOOP = {"remat": True}, {"scan_layers": True}


@pytest.mark.parametrize(
    "way",
    [{}, *(pytest.param(way, marks=pytest.mark.slow) for way in (REMAT, LOOP, REMAT | LOOP))],
    ids=["", "remat", "loop", "remat and loop"],
)
@pytest.mark.parametrize(
    "model",
    [*models(), pytest.param(OWN, marks=pytest.mark.slow), TIED],
    ids=["TextToText", "TextToTextID", "Canonical", "own embeddings", "tied"],
)
def test_task_gradients_are_those_of_separate_passes(model, way):
    """By leaf and by group; the separate passes go through one layer after the other, and keep
    what they compute."""
    params, batch = init(model), a_batch()
    separate = separate_gradients(model, params, batch)
    model = model.clone(config=dataclasses.replace(model.config, **way))
    per_task, total, grams = engine(model, params, batch)
    products = {}
    for name, found in per_task.items():
        expected = np.stack([gradient[name] for gradient in separate])
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected), name
        flat = expected.reshape(TASKS, -1).astype(np.float64)
        products[name] = flat @ flat.T
    for group, names in one_pass.select(params, GROUPS).items():
        expected = sum(products[name] for name in names)
        lengths = np.sqrt(np.diagonal(expected))
        error = np.abs(grams[group] - expected) / np.outer(lengths, lengths)
        assert error.max() <= 1e-5, group
    for name, found in flatten_dict(total, sep="/").items():
        expected = sum(gradient[name] for gradient in separate)
        # The bias of a span's pointers has no gradient but rounding.
        scale = max(np.linalg.norm(expected), 1e-2)
        assert np.linalg.norm(found - expected) <= 1e-5 * scale, name


@pytest.mark.slow
@pytest.mark.parametrize("model", models(), ids=lambda model: type(model).__name__)
def test_bfloat16_task_gradients_are_those_of_separate_passes(model):
    """To bfloat16's 8 bits; the engine's own Gram matrix is of its own gradients, to float32's."""
    params, batch = init(model), a_batch()
    model = model.clone(config=dataclasses.replace(CONFIG, dtype="bfloat16"))
    separate = separate_gradients(model, params, batch)
    per_task, _, grams = engine(model, params, batch)
    products = {}
    for name, found in per_task.items():
        expected = np.stack([gradient[name] for gradient in separate])
        assert np.linalg.norm(found - expected) <= 2**-6 * np.linalg.norm(expected), name
        flat = np.asarray(found, np.float64).reshape(TASKS, -1)
        products[name] = flat @ flat.T
    for group, names in one_pass.select(params, GROUPS).items():
        expected = sum(products[name] for name in names)
        lengths = np.sqrt(np.diagonal(expected))
        assert np.all(np.abs(grams[group] - expected) <= 1e-4 * np.outer(lengths, lengths)), group


def separate_gradients(model, params, batch) -> list[dict]:
    """A jax.grad call per task, by parameter name."""
    one = jax.jit(jax.grad(lambda params, k: model.apply({"params": params}, batch)[k]))
    return [flatten_dict(one(params, k), sep="/") for k in range(TASKS)]


@functools.partial(jax.jit, static_argnums=0)
def engine(model, params, batch):
    """(per-task gradients by name, gradient of the sum, Gram matrix by group)."""

    def loss_fn(params, probes):
        return model.apply({"params": params, "probes": probes}, batch), None

    _, _, per_task = one_pass.per_task_gradients(loss_fn, params, TASKS, GROUPS["all"])
    _, total, grams = one_pass.gradient_and_grams(loss_fn, params, TASKS, GROUPS)
    return per_task, total, grams


@functools.partial(jax.jit, static_argnums=0)
def losses_of(model, params, batch):
    return model.apply({"params": params}, batch)


def test_one_checkpoint_gives_every_architecture_one_encoder():
    start = jax.tree.map(np.asarray, init(architectures.TextToText(CONFIG), seed=7))
    inputs = a_batch()["encoder_input_tokens"][0]
    encodings, decoders = [], []
    for model in models():
        params = pretrained.merge(init(model, seed=8), start)
        encodings.append(model.apply({"params": params}, inputs, method="encode"))
        decoders.append(params["decoder"])
    for other in encodings[1:]:
        np.testing.assert_array_equal(encodings[0], other)
    for stacked, copies in ((decoders[1], TASKS), (decoders[2], 2)):
        for ours, whole in zip(jax.tree.leaves(stacked), jax.tree.leaves(start["decoder"])):
            np.testing.assert_array_equal(ours, np.broadcast_to(whole, (copies, *whole.shape)))


@pytest.mark.parametrize("own_embeddings", [False, True])
def test_decoders_of_a_tied_model_start_as_its_own(own_embeddings):
    """From T5 1.0 each task gets an output layer, or a table, of its own: the losses are equal."""
    start, batch = init(TIED, seed=7), a_batch()
    model = architectures.TextToTextID(T5_1_0, own_embeddings=own_embeddings)
    params = pretrained.merge(init(model, seed=8), start)
    assert ("logits_dense" in params["decoder"]) != own_embeddings
    expected = losses_of(TIED, start, batch)
    np.testing.assert_allclose(losses_of(model, params, batch), expected, rtol=1e-5)
    single, of_task = model.for_task(params, 1)
    np.testing.assert_allclose(losses_of(single, of_task, batch), expected, rtol=1e-5)


@pytest.mark.slow
def test_own_embeddings():
    """They start as the encoder's, belong to one task each, and decoding takes them."""
    start = init(architectures.TextToText(CONFIG), seed=7)
    params = pretrained.merge(init(OWN, seed=8), start)
    shared, own = params["token_embedder"], params["decoder"]["token_embedder"]
    np.testing.assert_array_equal(own["embedding"], np.stack([shared["embedding"]] * TASKS))
    batch = a_batch()
    before = losses_of(OWN, params, batch)
    common = architectures.TextToTextID(CONFIG)
    without = {**params, "decoder": {**params["decoder"]}}
    del without["decoder"]["token_embedder"]
    np.testing.assert_allclose(before, losses_of(common, without, batch), rtol=1e-5)
    changed = own["embedding"].at[2].multiply(-1.0)
    params["decoder"]["token_embedder"]["embedding"] = changed
    same = np.asarray(losses_of(OWN, params, batch)) == np.asarray(before)
    assert same.tolist() == [task != 2 for task in range(TASKS)]
    # Greedy decoding goes through the cache; teacher forcing of its answer finds it likeliest.
    single, own_params = OWN.for_task(params, 2)
    inputs = batch["encoder_input_tokens"][2]
    answers = decoding.greedy(own_params, inputs, model=single, max_length=4)
    given = jnp.pad(answers[:, :-1], ((0, 0), (1, 0)))
    forced = single.apply({"params": own_params}, inputs, given, method="logits").argmax(-1)
    ended = np.cumsum(np.asarray(answers) == 1, axis=1) - (np.asarray(answers) == 1) > 0
    np.testing.assert_array_equal(np.where(ended, 0, forced), answers)


def test_uniform_heads_start_within_one_over_the_root_of_the_inputs():
    model = architectures.Canonical(CONFIG, heads=HEADS, uniform_heads=True)
    params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), a_batch()))["params"]
    drawn = [v for i in (0, 2, 3, 4, 5) for v in jax.tree.leaves(params[f"head_{i}"])]
    values = np.concatenate([value.ravel() for value in drawn])
    assert np.abs(values).max() <= 0.25 and np.all(values != 0), "16 features; biases too"
    # A uniform variable's spread is its bound over the root of 3.
    np.testing.assert_allclose(values.std(), 0.25 / np.sqrt(3), rtol=0.15)


def test_decoders_drawn_at_random_start_equal_too():
    model = architectures.TextToTextID(dataclasses.replace(CONFIG, num_encoder_layers=1))
    boxed = jax.jit(model.init)(jax.random.key(0), a_batch())
    for weight in jax.tree.leaves(nn.meta.unbox(boxed)["params"]["decoder"]):
        np.testing.assert_array_equal(weight, np.broadcast_to(weight[:1], weight.shape))


def test_a_decoder_per_task_is_that_many_text_to_text_models():
    model = architectures.TextToTextID(CONFIG)
    params, batch = jax.device_get((init(model), a_batch()))
    found = losses_of(model, params, batch)
    for task in range(TASKS):
        single, single_params = model.for_task(params, task)
        rows = {name: values[task : task + 1] for name, values in batch.items()}
        expected = losses_of(single, single_params, rows)[0]
        np.testing.assert_allclose(found[task], expected, rtol=1e-5)
    assert len(set(np.asarray(found).tolist())) == TASKS, "every task's decoder is another"


def test_canonical_heads_by_hand():
    model = architectures.Canonical(CONFIG, heads=HEADS)
    params, batch = init(model), a_batch()
    found = losses_of(model, params, batch)
    inputs, targets = batch["encoder_input_tokens"], np.asarray(batch[heads.FEATURE])
    encode = jax.jit(functools.partial(model.apply, method="encode"))
    encoded = np.asarray(encode({"params": params}, inputs), np.float64)
    mask = np.asarray(inputs != 0, np.float64)[..., None]
    mean = (encoded * mask).sum(2) / mask.sum(2)

    def linear(task, name, x):
        weights = params[f"head_{task}"][name]
        return x @ np.asarray(weights["kernel"], np.float64) + np.asarray(weights["bias"])

    def entropy(logits, label):
        logits = logits - logits.max()
        return np.log(np.exp(logits).sum()) - logits[label]

    expected = np.mean(
        [entropy(linear(0, "logits", mean[0])[b], int(targets[0, b, 0])) for b in range(BATCH)]
    )
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        found[2], np.mean((linear(2, "score", mean[2])[:, 0] - targets[2, :, 0]) ** 2), rtol=1e-5
    )
    pointers = np.where(mask[4] > 0, linear(4, "span", encoded[4]), -1e10)
    answers, spans = [], []
    for b in range(BATCH):
        answerable, first, last = targets[4, b].astype(int)
        answers.append(entropy(linear(4, "answerable", mean[4])[b], answerable))
        if answerable and first >= 0:
            spans.append(entropy(pointers[b, :, 0], first) + entropy(pointers[b, :, 1], last))
    assert len(spans) == 2, "the span's loss is over the answerable rows only"
    np.testing.assert_allclose(found[4], (np.mean(answers) + np.mean(spans)) / 3, rtol=1e-5)


def test_a_batch_with_other_tasks_than_heads():
    model = architectures.Canonical(CONFIG, heads=HEADS[:2])
    with pytest.raises(ValueError, match="7 tasks, but Canonical.heads has 2"):
        model.init(jax.random.key(0), a_batch())


def test_a_span_that_was_lost_teaches_nothing():
    start, end = jnp.zeros((2, 4)), jnp.zeros((2, 4))
    both = losses.span(start, end, jnp.array([[1, 2], [-1, -1]]))
    np.testing.assert_allclose(both, np.log(4) / 2, rtol=1e-6)


def test_an_optional_spans_loss_is_that_of_its_parts():
    """Uneven numbers of answerable rows in the parts: by weights of the whole batch they add up."""
    model = architectures.Canonical(CONFIG, heads=(heads.Span(no_answer="none"),))
    batch = {name: values[4:5] for name, values in a_batch().items()}
    params = random_t5.params_of(model, 0, batch)
    whole = losses_of(model, params, batch)
    prepared = model.apply({}, batch, method="before_splitting")
    parts = [{n: v[:, rows] for n, v in prepared.items()} for rows in (slice(0, 1), slice(1, 3))]
    weights = [float(model.apply({}, part, method="loss_weights")[0]) for part in parts]
    found = [float(losses_of(model, params, part)[0]) for part in parts]
    np.testing.assert_allclose(np.average(found, weights=weights), whole[0], rtol=1e-6)
    none = {**batch, heads.FEATURE: batch[heads.FEATURE].at[..., 1:].set(-1)}
    assert np.isfinite(losses_of(model, params, none)).all(), "no row with an answer"


def test_each_decoder_answers_its_own_task():
    model = architectures.Canonical(CONFIG, heads=HEADS)
    params = init(model)
    decoder = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = decoder.at[1].multiply(-1.0)
    inputs = a_batch()["encoder_input_tokens"][0]
    answers = []
    for task in (1, 6):
        single, single_params = model.for_task(params, task)
        answers.append(decoding.greedy(single_params, inputs, model=single, max_length=4))
    assert not np.array_equal(answers[0], answers[1])
