"""T5 in Hugging Face's format, under T5X's parameter names: weights, and config.json."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from mtl_t5x.models import layers, t5
from mtl_t5x.settings.checks import SettingsError
from mtl_t5x.storage import tensor_files

Params = Mapping[str, Any]

CONFIG = "config.json"
SHARED, OUTPUT = "shared.weight", "lm_head.weight"


def _table() -> dict[str, str]:
    """T5X names to Hugging Face names; `#` stands for the layer's number."""
    names = {
        "token_embedder/embedding": SHARED,
        "decoder/logits_dense/kernel": OUTPUT,
    }

    def sublayer(stack: str, index: int, ours: str, theirs: str, norm: str, weights: dict):
        hf = f"{stack}.block.#.layer.{index}"
        names[f"{stack}/layers_#/{norm}/scale"] = f"{hf}.layer_norm.weight"
        for our_weight, their_weight in weights.items():
            name = f"{stack}/layers_#/{ours}/{our_weight}/kernel"
            names[name] = f"{hf}.{theirs}.{their_weight}.weight"

    attention = {"query": "q", "key": "k", "value": "v", "out": "o"}
    mlp = {name: name for name in ("wi", "wi_0", "wi_1", "wo")}
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

# Sizes: `t5.T5Config`'s names and config.json's, and what the latter's absence means.
_SIZES = {
    "vocab_size": ("vocab_size", None),
    "emb_dim": ("d_model", None),
    "head_dim": ("d_kv", None),
    "mlp_dim": ("d_ff", None),
    "num_heads": ("num_heads", None),
    "num_encoder_layers": ("num_layers", None),
    "num_decoder_layers": ("num_decoder_layers", "num_layers"),
    "relpos_buckets": ("relative_attention_num_buckets", 32),
    "relpos_max_distance": ("relative_attention_max_distance", 128),
}
_ACTIVATIONS = {"relu": layers.RELU, "gated-gelu": layers.GATED_GELU}
_TO_ACTIVATIONS = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
# What every T5 has alike, and this project's models too.
_FIXED = {"layer_norm_epsilon": 1e-6, "pad_token_id": 0, "eos_token_id": 1}
_FIXED |= {"decoder_start_token_id": 0}


def read_config(folder: epath.Path) -> t5.T5Config:
    """The sizes and the kind of T5 that a folder's config.json says.

    Raises:
      ValueError: it is no JSON, or that of a model that isn't T5 1.0, 1.1, Flan-T5, mT5 or ByT5.
    """
    path = folder / CONFIG
    try:
        settings = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is no JSON ({error}): get the checkpoint's files again"
        ) from error
    kind = settings.get("model_type", "t5")
    if kind not in ("t5", "mt5"):
        raise ValueError(
            f"{path} is of a model of the type {kind!r}: INITIAL_CHECKPOINT_PATH must name a T5 "
            "(as t5-small, t5-v1_1-*, flan-t5-*, mt5-*, byt5-*)"
        )
    activation = settings.get("feed_forward_proj", "relu" if kind == "t5" else "gated-gelu")
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"{path} has feed_forward_proj = {activation!r}, which no model here has: "
            "INITIAL_CHECKPOINT_PATH must name a T5 with 'relu' (1.0) or 'gated-gelu' (1.1, "
            "Flan-T5, mT5, ByT5)"
        )
    for name, value in _FIXED.items():
        if settings.get(name, value) != value:
            raise ValueError(
                f"{path} has {name} = {settings[name]!r}, and the models here have {value!r}: "
                "INITIAL_CHECKPOINT_PATH must name another checkpoint"
            )
    sizes = {}
    for ours, (theirs, default) in _SIZES.items():
        sizes[ours] = settings.get(theirs)
        if sizes[ours] is None:
            sizes[ours] = settings.get(default) if isinstance(default, str) else default
        if not isinstance(sizes[ours], int) or sizes[ours] < 1:
            raise ValueError(
                f"{path} has {theirs} = {sizes[ours]!r} instead of a whole number: get it again"
            )
    return t5.T5Config(
        **sizes,
        mlp_activations=_ACTIVATIONS[activation],
        logits_via_embedding=kind == "t5" and _is_scaled(settings),
    )


def _is_scaled(settings: Mapping[str, Any]) -> bool:
    """Whether the output is scaled, and tied, as in T5 1.0.

    transformers 5 writes tie_word_embeddings = true for every T5, and says by another setting
    whether it scales.
    """
    return settings.get("scale_decoder_outputs", settings.get("tie_word_embeddings", True))


def check(folder: epath.Path, ours: t5.T5Config | None = None) -> None:
    """Looks at a folder's files without reading its parameters.

    Args:
      folder: with config.json.
      ours: of the model that is to take the parameters; its precision and dropout don't count.

    Raises:
      SettingsError: `ours` has other sizes; each is named.
      ValueError: config.json is not that of a T5; or a file of parameters is absent, cut off, or a
        pickle.
      FileNotFoundError: a shard that the index names isn't there.
    """
    theirs = read_config(folder)
    if ours is not None:
        _check_sizes(folder / CONFIG, ours, theirs)
    _named(folder, theirs)


def _check_sizes(path: epath.Path, ours: t5.T5Config, theirs: t5.T5Config) -> None:
    names = {name: theirs_name for name, (theirs_name, _) in _SIZES.items()}
    names |= {"mlp_activations": "feed_forward_proj", "logits_via_embedding": "its scaled output"}
    faults = [
        f"t5.T5Config.{name} = {getattr(ours, name)!r}, but {path} says {getattr(theirs, name)!r} "
        f"({theirs_name})"
        for name, theirs_name in names.items()
        if getattr(ours, name) != getattr(theirs, name)
    ]
    if faults:
        faults[-1] += (
            ". Include the gin/models file of the checkpoint's family and size, or let its "
            "config.json decide: --gin_file=gin/models/from_checkpoint.gin after the other files"
        )
        raise SettingsError(*faults)


def load_params(folder: epath.Path) -> dict[str, tensor_files.Lazy]:
    """The parameters under T5X's names, each read when it is asked for; errors as of `check`."""
    return _named(folder, read_config(folder))


def _named(folder: epath.Path, theirs: t5.T5Config) -> dict[str, tensor_files.Lazy]:
    tensors = tensor_files.tensors(folder)
    if tensors is None:
        raise ValueError(_no_weights(folder))
    tensors = {name: tensor for name, tensor in tensors.items() if name not in _UNUSED}
    names = {name: _translate(name, _FROM_HUGGINGFACE) for name in tensors}
    unknown = sorted(name for name, ours in names.items() if ours is None)
    if unknown:
        raise ValueError(
            f"{folder}: {len(unknown)} tensors that a T5 doesn't have: "
            f"{', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}. "
            "INITIAL_CHECKPOINT_PATH must name a T5"
        )
    if theirs.logits_via_embedding:
        names.pop(OUTPUT, None)
        if OUTPUT in tensors and not np.array_equal(tensors[OUTPUT], tensors[SHARED]):
            raise ValueError(
                f"{folder / CONFIG} says that the output is scaled, as T5 1.0's is, whose output "
                f"layer is the embedding; here {OUTPUT} is another: no model here has both"
            )
    found = {
        ours: tensors[name].transposed if _transposed(ours) else tensors[name]
        for name, ours in names.items()
    }
    if not theirs.logits_via_embedding and OUTPUT not in tensors and SHARED in tensors:
        # Newer versions tie the output of a model that was never trained, and leave it out.
        found[_FROM_HUGGINGFACE[OUTPUT]] = tensors[SHARED].transposed
    return found


def _no_weights(folder: epath.Path) -> str:
    if any(folder.glob("pytorch_model*.bin")):
        return (
            f"INITIAL_CHECKPOINT_PATH: {folder} holds its weights as pickles (pytorch_model*.bin), "
            "which can run any code when they are read, and aren't. Convert them once, with "
            'transformers and torch installed: python -c "import transformers as t; '
            f"t.AutoModelForSeq2SeqLM.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    return (
        f"INITIAL_CHECKPOINT_PATH: {folder} has a {CONFIG} but no {tensor_files.SINGLE} and no "
        f"{tensor_files.INDEX} beside it: get the checkpoint's weights, too"
    )


def export_params(params: Params, config: t5.T5Config, directory: epath.Path) -> None:
    """Writes config.json and the weights: a folder that transformers loads.

    Args:
      params: the parameters of an `architectures.TextToText`, or of an encoder and its embedding
        alone, which become a T5EncoderModel.
      config: its own.
      directory: is there.

    Raises:
      ValueError: a parameter that a T5 of transformers has no place for.
    """
    tensors = {}
    for name, array in flatten_dict(params, sep="/").items():
        theirs = name_of(name)
        tensor = tensor_files.Lazy(tuple(array.shape), functools.partial(_read, array))
        tensors[theirs] = tensor.transposed if _transposed(name) else tensor
    tensor_files.write(directory, tensors)
    kind = "T5ForConditionalGeneration" if "decoder" in params else "T5EncoderModel"
    write_config(config, directory, kind)


def write_config(config: t5.T5Config, directory: epath.Path, kind: str) -> None:
    """Writes config.json, for a class of transformers."""
    settings = {
        "architectures": [kind],
        "model_type": "t5",
        "is_encoder_decoder": True,
        **{theirs: getattr(config, ours) for ours, (theirs, _) in _SIZES.items()},
        "feed_forward_proj": _TO_ACTIVATIONS[config.mlp_activations],
        "tie_word_embeddings": config.logits_via_embedding,
        "dropout_rate": config.dropout_rate,
        **_FIXED,
    }
    text = json.dumps(settings, indent=2) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")


def name_of(parameter: str) -> str:
    """Hugging Face's name of a parameter.

    Raises:
      ValueError: a T5 of transformers has no place for it.
    """
    if (theirs := _translate(parameter, _TO_HUGGINGFACE)) is None:
        raise ValueError(
            f"the parameter {parameter} has no place in a Hugging Face T5, which has one embedding "
            "and one decoder"
        )
    return theirs


def _read(array: Any, to: np.ndarray) -> None:
    np.copyto(to, np.asarray(array))


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
