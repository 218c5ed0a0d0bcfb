import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x.models import architectures, decoding, t5
from mtl_t5x.tasks import vocabularies
from tests import random_t5

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
    return architectures.TextToText(CONFIG), random_t5.params(CONFIG, seed=3)


@functools.partial(jax.jit, static_argnames="model")
def all_logits(model, params, inputs, decoder_inputs):
    return model.apply({"params": params}, inputs, decoder_inputs, method="logits")


def without_cache(model, params, inputs, max_length):
    """Greedy decoding as its definition says, the whole prefix anew for every token."""
    inputs = jnp.asarray(inputs)
    decoded = np.zeros((len(inputs), 0), np.int32)
    for _ in range(max_length):
        shifted = np.pad(decoded, ((0, 0), (1, 0)))
        # Padded to one length, so that one compiled program serves every prefix.
        padded = np.pad(shifted, ((0, 0), (0, max_length - shifted.shape[1])))
        logits = np.asarray(all_logits(model, params, inputs, padded))[:, shifted.shape[1] - 1]
        chosen = np.argmax(logits, axis=-1)
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


def log_probability(model, params, inputs, answers):
    """Of each answer, up to and including its end."""
    answers = jnp.asarray(answers)
    shifted = jnp.pad(answers, ((0, 0), (1, 0)))[:, :-1]
    logits = all_logits(model, params, jnp.asarray(inputs), shifted)
    tokens = jnp.take_along_axis(jax.nn.log_softmax(logits), answers[..., None], axis=-1)[..., 0]
    return np.asarray(jnp.sum(tokens * (answers != 0), axis=-1))


def test_one_beam_is_greedy(model_and_params):
    model, params = model_and_params
    inputs = jnp.asarray(np.random.default_rng(2).integers(2, 23, (16, 9)).astype(np.int32))
    expected = decoding.greedy(params, inputs, model=model, max_length=10)
    found = decoding.beam_search(params, inputs, model=model, max_length=10, beams=1)
    np.testing.assert_array_equal(found, expected)


def test_enough_beams_find_the_best_of_all_answers(model_and_params):
    """All answers of two tokens: as many beams as tokens is exhaustive search."""
    model, params = model_and_params
    inputs = np.random.default_rng(3).integers(2, 23, (4, 6)).astype(np.int32)
    found = decoding.beam_search(
        params, jnp.asarray(inputs), model=model, max_length=2, beams=23, length_penalty=0.0
    )
    answers = [(1, 0)] + [(a, b) for a in range(23) if a != 1 for b in range(23)]
    for row, best in zip(inputs, np.asarray(found)):
        rows = np.repeat(row[None], len(answers), axis=0)
        # An inner 0 counts as a token here, so score it as one.
        shifted = np.pad(np.array(answers), ((0, 0), (1, 0)))[:, :-1]
        logits = all_logits(model, params, jnp.asarray(rows), jnp.asarray(shifted))
        scores = np.asarray(jax.nn.log_softmax(logits))
        totals = [
            scores[i, 0, a] + (0.0 if a == 1 else scores[i, 1, b])
            for i, (a, b) in enumerate(answers)
        ]
        assert tuple(best) == answers[int(np.argmax(totals))]


def test_more_beams_never_score_lower_on_average(model_and_params):
    model, params = model_and_params
    inputs = np.random.default_rng(4).integers(2, 23, (32, 9)).astype(np.int32)
    means = [
        log_probability(
            model,
            params,
            inputs,
            decoding.beam_search(
                params,
                jnp.asarray(inputs),
                model=model,
                max_length=6,
                beams=beams,
                length_penalty=0.0,
            ),
        ).mean()
        for beams in (1, 8)
    ]
    assert means[1] >= means[0]


@pytest.mark.parametrize("beams", [1, 3])
def test_only_permitted_answers_come_out(model_and_params, beams):
    model, params = model_and_params
    inputs = np.random.default_rng(5).integers(2, 23, (16, 9)).astype(np.int32)
    answers = np.array([[5, 6, 1, 0], [5, 7, 8, 1], [9, 1, 0, 0]], np.int32)
    search = decoding.Search(beams=beams, length_penalty=0.0)
    found = decoding.decode(
        params, inputs, answers=answers, model=model, max_length=4, search=search
    )
    assert {tuple(row) for row in np.asarray(found)} <= {tuple(row) for row in answers}
    if beams == 3:  # all three answers are followed, so the likeliest of them wins
        scores = [
            log_probability(model, params, inputs, np.repeat(answer[None], 16, axis=0))
            for answer in answers
        ]
        np.testing.assert_array_equal(found, answers[np.argmax(scores, axis=0)])


def test_a_permitted_answer_that_is_too_long():
    vocabulary = vocabularies.load("bytes")
    with pytest.raises(ValueError, match="'entailment' has 11 tokens.*TASK_FEATURE_LENGTHS"):
        decoding.answer_table(["no", "entailment"], vocabulary, 8)
