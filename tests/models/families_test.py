"""Every family against transformers: logits, gradients, greedy answers, and the way out again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mtl_t5x.models import architectures, decoding, huggingface, pretrained
from tests import random_t5

pytestmark = pytest.mark.reference

# Sizes by transformers' names; the proportions are each family's.
FAMILIES = {
    "T5 1.0": {"feed_forward_proj": "relu", "vocab_size": 96, "d_ff": 96, "num_heads": 4},
    "T5 1.1": {"vocab_size": 96, "d_ff": 40, "num_heads": 4},
    "Flan-T5": {"vocab_size": 128, "d_ff": 64, "num_heads": 3},
    "mT5": {"vocab_size": 250_112, "d_ff": 64, "num_heads": 3},
    "ByT5": {"vocab_size": 384, "d_ff": 72, "num_heads": 3, "num_layers": 3},
}
PROMPTS, LONGEST = 50, 8


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """(torch, transformers' model with random weights, its folder, our model, our parameters)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 6, "num_layers": 2, "num_decoder_layers": 2}
    sizes |= {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, "decoder_start_token_id": 0}
    sizes |= FAMILIES[request.param]
    if request.param == "mT5":
        made = transformers.MT5ForConditionalGeneration(transformers.MT5Config(**sizes))
    else:
        tied = request.param == "T5 1.0"
        settings = transformers.T5Config(**sizes, tie_word_embeddings=tied)
        made = transformers.T5ForConditionalGeneration(settings)
    if request.param != "T5 1.0":  # newer versions tie every fresh T5
        made.lm_head.weight = torch.nn.Parameter(made.lm_head.weight.detach().clone())
    made = random_t5.randomise(made).eval()
    folder = tmp_path_factory.mktemp("family")
    made.save_pretrained(folder)
    config = huggingface.read_config(folder)
    pretrained.check(folder, config)
    params = jax.tree.map(jnp.asarray, pretrained.load_params(folder))
    return torch, made, folder, architectures.TextToText(config), params


def a_batch(model, rows=3):
    rng, size = np.random.default_rng(0), model.config.vocab_size
    inputs = random_t5.ids(rng, np.linspace(4, 24, rows).astype(int), 24, size)
    targets = random_t5.ids(rng, np.linspace(3, 12, rows).astype(int)[::-1], 12, size)
    return inputs, targets, jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))


def test_logits_and_gradients(family):
    torch, reference, _, model, params = family
    inputs, targets, shifted = a_batch(model)
    out = reference(
        input_ids=torch.tensor(np.asarray(inputs)).long(),
        attention_mask=torch.tensor(np.asarray(inputs != 0)),
        labels=torch.tensor(np.where(targets == 0, -100, targets)).long(),
    )
    out.loss.backward()
    logits = model.apply({"params": params}, inputs, shifted, method="logits")
    np.testing.assert_allclose(logits, out.logits.detach().numpy(), rtol=0, atol=1e-4)
    batch = {
        "encoder_input_tokens": inputs[None],
        "decoder_input_tokens": shifted[None],
        "decoder_target_tokens": targets[None],
        "decoder_loss_weights": (targets[None] != 0).astype(jnp.float32),
    }
    loss = jax.jit(jax.value_and_grad(lambda p: model.apply({"params": p}, batch)[0]))
    value, gradients = loss(params)
    np.testing.assert_allclose(value, out.loss.item(), rtol=1e-5)
    theirs = dict(reference.named_parameters())
    worst = 0.0
    for name, found in flatten_dict(gradients, sep="/").items():
        expected = theirs[huggingface.name_of(name)].grad.numpy()
        expected = expected.T if name.endswith(("/kernel", "/rel_embedding")) else expected
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        worst = max(worst, error)
        assert error < 1e-3, name
    difference = np.abs(logits - out.logits.detach().numpy()).max()
    print(f"logits {difference:.1e}, gradients {worst:.1e}")


def test_greedy_answers(family):
    torch, reference, _, model, params = family
    inputs, _, _ = a_batch(model, PROMPTS)
    with torch.no_grad():
        theirs = reference.generate(
            input_ids=torch.tensor(np.asarray(inputs)).long(),
            attention_mask=torch.tensor(np.asarray(inputs != 0)).long(),
            max_new_tokens=LONGEST,
            do_sample=False,
            num_beams=1,
        ).numpy()[:, 1:]
    ours = np.asarray(decoding.greedy(params, inputs, model=model, max_length=LONGEST))
    np.testing.assert_array_equal(ours[:, : theirs.shape[1]], theirs)
    assert not ours[:, theirs.shape[1] :].any()


def test_in_and_out_again(family, tmp_path):
    """Bit-equal in transformers, which also sees the same kind of model."""
    transformers = pytest.importorskip("transformers")
    torch, reference, folder, model, params = family
    half = dataclasses.replace(model.config, dtype="bfloat16")  # of the computation alone
    huggingface.export_params(params, half, tmp_path)
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    theirs, found = reference.state_dict(), again.state_dict()
    assert set(found) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(found[name], tensor), name
    inputs, _, shifted = a_batch(model)
    given = {
        "input_ids": torch.tensor(np.asarray(inputs)).long(),
        "decoder_input_ids": torch.tensor(np.asarray(shifted)).long(),
    }
    with torch.no_grad():
        assert torch.equal(again(**given).logits, reference(**given).logits)
