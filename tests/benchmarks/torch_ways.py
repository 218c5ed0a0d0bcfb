"""The same in PyTorch, with transformers' T5: what `conflict.py` and `decoding.py` compare with.

The model has the same weights and the same batch; nothing of it is padding, so no mask is given.
With bfloat16 the passes run under `torch.autocast`: as with `T5Config.dtype`, parameters and their
gradients stay float32 and products are taken in bfloat16. (`model.to(bfloat16)` would halve the
parameters too, a step of another kind.)
"""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import tempfile

import numpy as np
from etils import epath

from mtl_t5x.models import huggingface

HAS_TORCH = all(importlib.util.find_spec(n) for n in ("torch", "transformers", "safetensors"))
HAS_TORCHJD = HAS_TORCH and importlib.util.find_spec("torchjd") is not None
# torch.compile writes C++ for a CPU, and what starts its kernels on a GPU.
HAS_COMPILER = shutil.which(os.environ.get("CXX", "g++")) is not None


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def ways(config, params, batch, device: str):
    """Name to function without arguments, which returns the Gram matrix where it has one.

    Args:
      config: a `t5.T5Config`.
      params: the parameters of `architectures.TextToText`.
      batch: `[task, batch, length]`, no padding.
      device: "gpu" for PyTorch's first one; else the CPU.
    """
    import torch

    device = "cuda" if device == "gpu" else "cpu"
    model = _model(config, params).to(device)
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    ids = [torch.tensor(np.asarray(batch[name])).long().to(device) for name in names]

    def autocast():
        return torch.autocast(device, torch.bfloat16, enabled=config.dtype == "bfloat16")

    def losses(inputs, decoder_inputs, targets, model=model):
        """[task, batch], whose sum over the batch is each task's loss."""
        with autocast():
            logits = model(
                input_ids=inputs.flatten(0, 1),
                decoder_input_ids=decoder_inputs.flatten(0, 1),
                use_cache=False,
            ).logits
            entropy = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), targets.flatten(), reduction="none"
            )
        return entropy.reshape(*targets.shape[:2], -1).sum(2) / targets[0].numel()

    found = _passes(model, losses, ids)
    if HAS_COMPILER:
        # For these shapes alone: another K before it would have it compile for any.
        torch.compiler.reset()
        compiled = torch.compile(losses, dynamic=False)
        found |= {f"{n}_compiled": way for n, way in _passes(model, compiled, ids).items()}
    if HAS_TORCHJD:
        found |= _torchjd(model, losses, ids, autocast)
    return {name: _synchronised(way, device) for name, way in found.items()}


def generation(config, params, inputs, tokens: int):
    """A function that generates the greedy answers [row, tokens] to `inputs` [row, length]."""
    import torch

    model = _model(config, params).eval()
    ids = torch.tensor(np.asarray(inputs)).long()

    def run():
        with torch.inference_mode():
            found = model.generate(ids, max_new_tokens=tokens, do_sample=False, num_beams=1)
        return found[:, 1:].numpy()  # without the start token

    return run


def _model(config, params):
    """transformers' T5 with these parameters; its default attention is PyTorch's fused kernel."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        huggingface.export_params(params, config, epath.Path(folder))
        return transformers.T5ForConditionalGeneration.from_pretrained(folder)


def _synchronised(way, device: str):
    import torch

    def run():
        result = way()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def _watched(model):
    """The modules whose parameters are measured: `one_pass.ENCODER` in transformers' words."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.Embedding)
    return [m for m in model.encoder.block.modules() if isinstance(m, kinds)]


def _passes(model, losses, ids):
    """One backward pass of the summed loss, nothing measured; a pass per task."""
    import torch

    watched = [module.weight for module in _watched(model)]

    def torch_plain():
        model.zero_grad()
        losses(*ids).sum().backward()

    def torch_per_task():
        rows, summed = [], None
        for piece in zip(*(tensor.split(1) for tensor in ids), strict=True):
            model.zero_grad()
            losses(*piece).sum().backward()
            rows.append(torch.cat([weight.grad.flatten() for weight in watched]))
            grads = [weight.grad for weight in model.parameters()]
            if summed is None:
                summed = grads
            else:
                torch._foreach_add_(summed, grads)
        units = torch.nn.functional.normalize(torch.stack(rows))
        return units @ units.T

    return {"torch_plain": torch_plain, "torch_per_task": torch_per_task}


def _torchjd(model, losses, ids, autocast):
    """TorchJD's engine in three ways.

    Each has modules of its own, because the engine's hooks slow other passes; the parameters are
    the model's. A backward pass of the summed loss follows the Gram matrix in each, as TorchJD's
    documentation has it.
    """
    tasks, examples = ids[0].shape[:2]

    def copied():
        return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})

    unbatched, by_example, by_task = copied(), copied(), copied()
    # The engine runs PyTorch's vmap over the backward pass; the fused kernel's has no rule for it.
    unbatched.set_attn_implementation("eager")
    _split_batch(by_example, tasks * examples, 1)
    _split_batch(by_task, tasks, examples)

    def sum_of_blocks(gram):
        return gram.reshape(tasks, examples, tasks, examples).sum((1, 3))

    def per_task(values):
        return values.sum(1)

    return {
        "torchjd": _engine_way(unbatched, None, per_task, losses, ids, autocast),
        "torchjd_examples": _engine_way(
            by_example, 0, lambda values: values.flatten(), losses, ids, autocast, sum_of_blocks
        ),
        "torchjd_tasks": _engine_way(by_task, 0, per_task, losses, ids, autocast),
    }


def _engine_way(model, batch_dim, objectives, losses, ids, autocast, read=lambda gram: gram):
    import torch
    import torchjd.autogram

    engine = torchjd.autogram.Engine(*_watched(model), batch_dim=batch_dim)

    def way():
        model.zero_grad()
        values = objectives(losses(*ids, model=model))
        # The batched engine runs the watched modules again, which are to see what they saw.
        with autocast():
            gram = engine.compute_gramian(values)
        values.backward(torch.ones_like(values))
        return read(gram)

    return way


def _split_batch(model, rows: int, examples: int):
    """Every measured module sees a batch of `rows`, which the engine's batched mode takes apart.

    The batched mode takes a module's first dimension for that of the losses. T5's relative
    position bias has none: it is computed once, `[query, key]`, and broadcast over the batch, so
    its gradient comes to the engine already summed. Here it is computed for each row. With fewer
    rows than the batch has elements, a linear layer sees the tokens of several examples as one.
    """
    import torch

    class Rows(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear = linear

        @property
        def weight(self):  # transformers looks at its type
            return self.linear.weight

        def forward(self, x):
            return self.linear(x.reshape(rows, -1, x.shape[-1])).reshape(*x.shape[:-1], -1)

    for module in list(model.encoder.block.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and not isinstance(module, Rows):
                setattr(module, name, Rows(child))
    attention = model.encoder.block[0].layer[0].SelfAttention
    embed = attention.relative_attention_bias

    def compute_bias(query_length, key_length, device=None, past_seen_tokens=0):
        places = torch.arange(max(query_length, key_length), device=device)
        buckets = attention._relative_position_bucket(
            places[None, :key_length] - places[:query_length, None],
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        bias = embed(buckets.expand(rows, -1, -1)).permute(0, 3, 1, 2)
        return bias.repeat_interleave(examples, 0) if examples > 1 else bias

    attention.compute_bias = compute_bias
