"""The paper's presets against its models in PyTorch: the same weights and batches, its formulas.

`Original` is written from what the original's code computes (davidandym/task-conflict-in-text-to-
text-learners: models/, measure_conflict.py, train.py), on the layers of transformers' T5.
"""

import functools
import pathlib

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.training.train_state import TrainState

from mtl_t5x import measure, step
from mtl_t5x.data import heads
from mtl_t5x.models import pretrained
from tests import random_t5

pytestmark = pytest.mark.reference
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
functional = torch.nn.functional

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = random_t5.CONFIG
TEXT = (heads.Decoder(),) * 3
KINDS = {
    "text_to_text": TEXT,
    "text_to_text_id": TEXT,
    "canonical": (
        heads.Classification(2),
        heads.Decoder(),
        heads.Regression(0.0, 5.0),
        heads.Span(),
        heads.Span("unanswerable"),
        heads.Classification(3),
        heads.Decoder(),
    ),
}
EXAMPLES, MICROBATCHES, UPDATES = 4, 3, 4


# The presets


def preset(architecture):
    """The model, the optimizer and the fixed point's settings of an example, but for the sizes."""
    sizes = ("vocab_size", "emb_dim", "num_heads", "num_encoder_layers", "num_decoder_layers",
             "head_dim", "mlp_dim")  # fmt: skip
    macros = {"MODEL_DIR": "unused", "DATA": "mini", "VOCABULARY_PATH": "mini", "TRAIN_STEPS": 9,
              "INITIAL_CHECKPOINT_PATH": "unused", "step.adamw.warmup_steps": 2,
              "measure.Settings.examples": EXAMPLES * MICROBATCHES,
              "measure.Settings.microbatch_size": EXAMPLES}  # fmt: skip
    macros |= {f"t5.T5Config.{size}": getattr(CONFIG, size) for size in sizes}
    gin.clear_config(clear_constants=True)
    gin.add_config_file_search_path(str(ROOT))
    try:
        bindings = [f"{name}={value!r}" for name, value in macros.items()]
        example = f"gin/examples/paper_decanlp_{architecture}.gin"
        gin.parse_config_files_and_bindings([example], bindings)
        model = gin.query_parameter("%MODEL").scoped_configurable_fn()
        optimizer = gin.query_parameter("%OPTIMIZER").scoped_configurable_fn()
        settings = gin.get_configurable("measure.Settings")()
    finally:
        gin.clear_config(clear_constants=True)
    if architecture == "canonical":
        model = model.clone(heads=KINDS[architecture])
    return model, optimizer, settings


# The original


class Linear(torch.nn.Module):
    """Outputs of a head: two pointers are two linear maps to one number."""

    def __init__(self, kind):
        super().__init__()
        width = CONFIG.emb_dim
        if isinstance(kind, heads.Span):
            self.start, self.end = torch.nn.Linear(width, 1), torch.nn.Linear(width, 1)
            if kind.no_answer is not None:
                self.no_answer = torch.nn.Linear(width, 2)
        else:
            self.out = torch.nn.Linear(width, getattr(kind, "num_classes", 1))

    def loss(self, kind, encoded, mask, targets):
        label, first, last = targets[:, 0], targets[:, 1].long(), targets[:, 2].long()
        mean = (encoded * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        if isinstance(kind, heads.Classification):
            return functional.cross_entropy(self.out(mean), label.long())
        if isinstance(kind, heads.Regression):
            return functional.mse_loss(self.out(mean)[:, 0], label)
        pointers = [
            torch.where(mask > 0, pointer(encoded)[..., 0], torch.tensor(-1e30))
            for pointer in (self.start, self.end)
        ]
        total = sum(
            functional.cross_entropy(scores, at, ignore_index=-1)
            for scores, at in zip(pointers, (first, last))
        )
        if kind.no_answer is None:
            return total / 2
        return (total + functional.cross_entropy(self.no_answer(mean), (first < 0).long())) / 3


class Original(torch.nn.Module):
    """A shared encoder, and of each task its head: a decoder with embedding and output, or linear
    maps; where the decoder is shared, it and the embedding are the encoder's T5's."""

    def __init__(self, architecture):
        super().__init__()
        torch.manual_seed(0)
        self.kinds = KINDS[architecture]
        self.whole = random_t5.randomise(random_t5.transformers_t5(CONFIG), seed=0)
        self.own = torch.nn.ModuleList()
        for i, kind in enumerate(self.kinds):
            if not isinstance(kind, heads.Decoder):
                self.own.append(Linear(kind))
            elif architecture == "text_to_text":
                self.own.append(torch.nn.Identity())
            else:
                one = random_t5.randomise(random_t5.transformers_t5(CONFIG), seed=i + 1)
                del one.encoder
                self.own.append(one)

    def loss(self, task, batch):
        rows = {name: torch.tensor(np.asarray(value[task])) for name, value in batch.items()}
        inputs = rows["encoder_input_tokens"].long()
        mask = (inputs != 0).float()
        encoded = self.whole.encoder(input_ids=inputs, attention_mask=mask).last_hidden_state
        kind, own = self.kinds[task], self.own[task]
        if not isinstance(kind, heads.Decoder):
            return own.loss(kind, encoded, mask, rows[heads.FEATURE])
        decoding = self.whole if isinstance(own, torch.nn.Identity) else own
        hidden = decoding.decoder(
            input_ids=rows["decoder_input_tokens"].long(),
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        targets = rows["decoder_target_tokens"].long()
        labels = torch.where(targets == 0, -100, targets)
        return functional.cross_entropy(decoding.lm_head(hidden).flatten(0, 1), labels.flatten())

    def shared(self, part):
        """What the conflict is measured in: an encoder's or a decoder's weights but for layer norms
        and the embedding."""
        return [
            weight
            for name, weight in getattr(self.whole, part).named_parameters()
            if "layer_norm" not in name and "embed_tokens" not in name
        ]


def parameters(original, architecture, folder):
    """The original's weights as ours."""

    def read(t5, name):
        random_t5.transformers_t5(CONFIG)
        t5.save_pretrained(folder / name)
        return jax.tree.map(jnp.asarray, pretrained.load_params(folder / name))

    def turned(*linears, order=slice(None)):
        weight = torch.cat([linear.weight for linear in linears]).detach().numpy()[order]
        bias = torch.cat([linear.bias for linear in linears]).detach().numpy()[order]
        return {"kernel": jnp.asarray(weight.T), "bias": jnp.asarray(bias)}

    params = read(original.whole, "whole")
    if architecture == "text_to_text":
        return params
    decoders = []
    for i, (kind, own) in enumerate(zip(original.kinds, original.own)):
        if isinstance(kind, heads.Decoder):
            own.encoder = original.whole.encoder  # T5's format has one
            one = read(own, f"own_{i}")
            del own.encoder
            decoders.append({**one["decoder"], "token_embedder": one["token_embedder"]})
        elif isinstance(kind, heads.Span):
            params[f"head_{i}"] = {"span": turned(own.start, own.end)}
            if kind.no_answer is not None:  # our class 1 is that there is an answer
                params[f"head_{i}"]["answerable"] = turned(
                    own.no_answer, order=slice(None, None, -1)
                )
        else:
            name = "score" if isinstance(kind, heads.Regression) else "logits"
            params[f"head_{i}"] = {name: turned(own.out)}
    return {**params, "decoder": jax.tree.map(lambda *leaves: jnp.stack(leaves), *decoders)}


def microbatches(kinds):
    """Three of four examples are the same in every one: the gradient is more than its noise."""
    drawn = []
    for seed in range(MICROBATCHES):
        batch = random_t5.batch(seed, len(kinds), EXAMPLES)
        rng = np.random.default_rng(seed)
        targets = np.empty((len(kinds), EXAMPLES, heads.NUM_TARGETS), np.float32)
        targets[..., 1:] = np.sort(rng.integers(0, 3, (len(kinds), EXAMPLES, 2)))
        for i, kind in enumerate(kinds):
            targets[i, :, 0] = rng.integers(0, getattr(kind, "num_classes", 2), EXAMPLES)
            if getattr(kind, "no_answer", None) is not None:
                targets[i, :, 0] = (1, 0, 1, seed % 2)
                targets[i, targets[i, :, 0] == 0, 1:] = -1
        drawn.append(batch | {heads.FEATURE: jnp.asarray(targets)})
    return [
        {name: jnp.concatenate([drawn[0][name][:, :3], own[name][:, 3:]], axis=1) for name in own}
        for own in drawn
    ]


def conflict_of(original, batches, weights):
    """The figures of the original's measure_conflict, from a backward pass per batch and task."""
    big, small = EXAMPLES * len(batches), EXAMPLES
    units, squares, traces, scales = [], [], [], []
    for task in range(len(original.kinds)):
        rows = []
        for batch in batches:
            parts = torch.autograd.grad(original.loss(task, batch), weights)
            rows.append(torch.cat([part.flatten() for part in parts]).double().numpy())
        gradient = np.mean(rows, axis=0)
        of_big, of_small = np.sum(gradient**2), np.mean(np.sum(np.square(rows), axis=1))
        units.append(gradient / np.sqrt(of_big))
        squares.append(of_big)
        traces.append((of_small - of_big) / (1 / small - 1 / big))
        scales.append(traces[-1] / ((big * of_big - small * of_small) / (big - small)))
    assert min(scales) > 0
    return {
        "reference_directional": np.linalg.norm(np.mean(units, axis=0)),
        "reference_magnitude": np.var(squares),
        "covariance": np.var(traces),
        "noise": np.var(scales),
        "norms": np.sqrt(squares),
    }


@functools.cache
def both(architecture, folder):
    original = Original(architecture).eval()
    return original, parameters(original, architecture, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("architecture", KINDS)
def test_losses_and_conflict(architecture, folder):
    original, params = both(architecture, folder)
    model, _, settings = preset(architecture)
    kinds, batches = KINDS[architecture], microbatches(KINDS[architecture])
    for batch in batches:
        expected = [original.loss(task, batch).item() for task in range(len(kinds))]
        losses = model.apply({"params": params}, batch)
        np.testing.assert_allclose(losses, expected, rtol=1e-3)
    names = [str(i) for i in range(len(kinds))]
    found = measure.measure_batches(
        params, random_t5.drawn(batches), model=model, tasks=names, settings=settings
    )["groups"]
    parts = ["encoder", "decoder"] if architecture == "text_to_text" else ["encoder"]
    assert {name for name in found if "/" not in name} == set(parts)
    for part in parts:
        expected = conflict_of(original, batches, original.shared(part))
        norms = list(found[part]["norms"].values())
        np.testing.assert_allclose(norms, expected.pop("norms"), rtol=1e-3)
        for name, value in expected.items():
            assert found[part][name] == pytest.approx(value, rel=1e-3), (part, name)


@pytest.mark.parametrize("architecture", KINDS)
def test_updates(architecture, folder):
    """The losses of the steps that follow the first updates, all of which are clipped."""
    original, params = both(architecture, folder)
    model, optimizer, _ = preset(architecture)
    batches = microbatches(KINDS[architecture])
    params = jax.tree.map(jnp.copy, params)  # a step reuses its state's buffers
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    state = state.replace(step=jnp.int32(0))
    before = [weight.detach().clone() for weight in original.parameters()]
    weights, moments = list(original.parameters()), {}
    for update in range(UPDATES):
        batch = batches[update % len(batches)]
        state, metrics = step.train_step(state, batch, jax.random.key(0))
        original.zero_grad(set_to_none=True)
        losses = [original.loss(task, batch) for task in range(len(original.kinds))]
        np.testing.assert_allclose(metrics["loss"], [one.item() for one in losses], rtol=1e-3)
        sum(losses).backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 5.0)
        assert metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-3) and norm > 5
        rate = 5e-4 * (update / 2 if update < 2 else (1 + np.cos(np.pi * (update - 2) / 6)) / 2)
        assert metrics["learning_rate"] == pytest.approx(rate, rel=1e-4)
        adamw(weights, moments, rate, update + 1)
    with torch.no_grad():
        for weight, value in zip(weights, before):
            weight.copy_(value)


@torch.no_grad()
def adamw(weights, moments, rate, t):
    """transformers 4.5.1's: eps 1e-6 is added before the correction."""
    for i, weight in enumerate(weights):
        if weight.grad is None:
            continue
        first, second = moments.get(i, (0.0, 0.0))
        first = 0.9 * first + 0.1 * weight.grad
        second = 0.999 * second + 0.001 * weight.grad**2
        moments[i] = first, second
        size = rate * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t)
        weight -= size * first / (second.sqrt() + 1e-6)
