"""T5 1.1 in Hugging Face's format, under T5X's parameter names."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

Params = Mapping[str, Any]
Read = Callable[[bytes], dict[str, np.ndarray]]


def _table() -> dict[str, str]:
    """T5X names to Hugging Face names; `#` stands for the layer's number."""
    names = {
        "token_embedder/embedding": "shared.weight",
        "decoder/logits_dense/kernel": "lm_head.weight",
    }

    def sublayer(stack: str, index: int, ours: str, theirs: str, norm: str, weights: dict):
        hf = f"{stack}.block.#.layer.{index}"
        names[f"{stack}/layers_#/{norm}/scale"] = f"{hf}.layer_norm.weight"
        for our_weight, their_weight in weights.items():
            name = f"{stack}/layers_#/{ours}/{our_weight}/kernel"
            names[name] = f"{hf}.{theirs}.{their_weight}.weight"

    attention = {"query": "q", "key": "k", "value": "v", "out": "o"}
    mlp = {"wi_0": "wi_0", "wi_1": "wi_1", "wo": "wo"}
    for stack, name, norm, mlp_index in (
        ("encoder", "attention", "pre_attention_layer_norm", 1),
        ("decoder", "self_attention", "pre_self_attention_layer_norm", 2),
    ):
        sublayer(stack, 0, name, "SelfAttention", norm, attention)
        sublayer(stack, mlp_index, "mlp", "DenseReluDense", "pre_mlp_layer_norm", mlp)
        names[f"{stack}/{stack}_norm/scale"] = f"{stack}.final_layer_norm.weight"
        names[f"{stack}/relpos_bias/rel_embedding"] = (
            f"{stack}.block.#.layer.0.SelfAttention.relative_attention_bias.weight"
        )
    sublayer(
        "decoder",
        1,
        "encoder_decoder_attention",
        "EncDecAttention",
        "pre_cross_attention_layer_norm",
        attention,
    )
    return names


_TO_HUGGINGFACE = _table()
_FROM_HUGGINGFACE = {theirs: ours for ours, theirs in _TO_HUGGINGFACE.items()}

# Copies of `shared.weight`, and a table that old files hold and no model reads.
_UNUSED = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)


def export_params(params: Params, config: Any, directory: epath.PathLike) -> None:
    """Writes config.json and model.safetensors, a folder that transformers loads as a T5.

    Args:
      params: the parameters of `architectures.TextToText`.
      config: its `t5.T5Config`.
      directory: made where it doesn't exist.

    Raises:
      ValueError: a parameter that a T5 of transformers has no place for.
      ImportError: the package safetensors is not installed.
    """
    tensors = {}
    for name, array in flatten_dict(params, sep="/").items():
        theirs = _translate(name, _TO_HUGGINGFACE)
        if theirs is None:
            raise ValueError(
                f"the parameter {name} has no place in a Hugging Face T5: only the architecture "
                "text_to_text can be exported"
            )
        array = np.asarray(array, np.float32)
        tensors[theirs] = np.ascontiguousarray(array.T if _transposed(name) else array)
    settings = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "relative_attention_num_buckets": config.relpos_buckets,
        "relative_attention_max_distance": config.relpos_max_distance,
        "dropout_rate": config.dropout_rate,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    content = _safetensors(directory).save(tensors, metadata={"format": "pt"})
    (directory / "model.safetensors").write_bytes(content)
    (directory / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _transposed(name: str) -> bool:
    return name.endswith(("/kernel", "/rel_embedding"))


def _translate(name: str, table: Mapping[str, str]) -> str | None:
    """The other convention's name, or None where it has none."""
    number = re.search(r"(?:layers_|block\.)(\d+)", name)
    if number is None:
        return table[name].replace("#", "0") if name in table else None
    digits = number.group(1)
    other = table.get(name[: number.start(1)] + "#" + name[number.end(1) :])
    if other is None or ("#" not in other and digits != "0"):
        return None
    return other.replace("#", digits)


def check(folder: epath.Path) -> None:
    """Looks at a folder's files without reading its parameters.

    Raises:
      ValueError: config.json is not that of a T5 1.1, or a file of parameters is absent or cut off.
      ImportError: the package that reads them is not installed.
    """
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is no JSON ({error}): get the checkpoint's files again"
        ) from error
    kind = settings.get("model_type", "t5")
    if kind not in ("t5", "mt5", "umt5"):
        raise ValueError(
            f"{path} is of a model of the type {kind!r}: INITIAL_CHECKPOINT_PATH must name a T5 "
            "1.1 (as t5-v1_1-*, flan-t5-*, byt5-*, mt5-*)"
        )
    activation = settings.get("feed_forward_proj", "relu")
    if activation != "gated-gelu":
        raise ValueError(
            f"{path} has feed_forward_proj = {activation!r}: this is not a T5 1.1, whose "
            "MLP is 'gated-gelu' (as in t5-v1_1-*, flan-t5-*, byt5-*, mt5-*)"
        )
    # transformers 5 writes tie_word_embeddings = true for every T5; the scaling tells 1.0 from 1.1.
    if settings.get("scale_decoder_outputs", settings.get("tie_word_embeddings", True)):
        raise ValueError(
            f"{path} ties the output to the embedding and scales it, as T5 1.0 does: a T5 1.1 "
            "has tie_word_embeddings = false (or scale_decoder_outputs = false)"
        )
    for file in folder.glob("model*.safetensors"):
        _check_length(file)
    _parts(folder)


def _check_length(file: epath.Path) -> None:
    """Whether a safetensors file is as long as it says: 8 bytes with the length of a JSON text,
    that text, which has the place of every array behind it, and the arrays."""
    try:
        with file.open("rb") as opened:
            begin = 8 + int.from_bytes(opened.read(8), "little")
            listed = json.loads(opened.read(min(begin - 8, file.stat().length)))
        ends = [of["data_offsets"][1] for name, of in listed.items() if name != "__metadata__"]
        expected = begin + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no safetensors file, or cut off: get it again") from error
    if file.stat().length != expected:
        raise ValueError(
            f"{file} has {file.stat().length} bytes instead of {expected}: get it again"
        )


def load_params(folder: epath.Path) -> dict[str, np.ndarray]:
    check(folder)
    files, read = _parts(folder)
    tensors = {
        name: tensor
        for file in files
        for name, tensor in read(file.read_bytes()).items()
        if name not in _UNUSED
    }
    names = {name: _translate(name, _FROM_HUGGINGFACE) for name in tensors}
    unknown = sorted(name for name, ours in names.items() if ours is None)
    if unknown:
        raise ValueError(
            f"{folder}: {len(unknown)} tensors that a T5 1.1 doesn't have: "
            f"{', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}"
        )
    return {
        ours: tensors[theirs].T if _transposed(ours) else tensors[theirs]
        for theirs, ours in names.items()
    }


def _parts(folder: epath.Path) -> tuple[list[epath.Path], Read]:
    """A folder's files of parameters, and what reads one; large models come in several files."""
    if files := sorted(folder.glob("model*.safetensors")):
        return files, _safetensors(folder).load
    if not (files := sorted(folder.glob("pytorch_model*.bin"))):
        raise ValueError(
            f"pretrained weights: {folder} has a config.json but no model.safetensors and no "
            "pytorch_model.bin beside it"
        )
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{files[0]} is read with the package torch: pip install torch==2.13.0"
        ) from error

    def read(content: bytes) -> dict[str, np.ndarray]:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in loaded.items()}

    return files, read


def _safetensors(folder: epath.Path):
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            f"the Hugging Face folder {folder} needs the package safetensors: "
            "pip install safetensors"
        ) from error
    return safetensors.numpy
