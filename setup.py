"""Installs mtl_t5x; versions known to work together are pinned in constraints.txt."""

from setuptools import find_packages, setup

setup(
    name="mtl_t5x",
    version="0.1.0",
    description="Multi-task T5 training in JAX with task conflict measured inside the train step.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mtl_t5x", "mtl_t5x.*"]),
    package_data={
        "mtl_t5x.report": ["paper/*.csv", "templates/*"],
        "mtl_t5x.tasks.mini": ["*.model"],
    },
    # The lowest versions that the tests were run with, all together; beside some, what broke below.
    install_requires=[
        "absl-py>=1.4",
        "clu>=0.0.12",  # 0.0.11 describes parameters without their shardings: KeyError
        "etils[epath]>=1.13",  # before, is_file() is true of what isn't there
        "flax>=0.12",
        "gin-config>=0.5",
        "grain>=0.2.18",
        "importlib_resources>=5.0",  # tensorflow-datasets imports it and doesn't ask for it
        # jaxlib 0.10.2 computes wrong numbers on CPU: a reduce fused with a batched product whose
        # right side is broadcast (tests/gradients/probes_test.py holds the reproducer).
        "jax>=0.10,!=0.10.2",
        "jaxlib>=0.10,!=0.10.2",
        "jaxtyping>=0.2.34",
        "jinja2>=3.1",
        "matplotlib>=3.9",  # 3.7 can't be imported beside NumPy 2
        "ml-collections>=0.1.1",
        "numpy>=2.0",  # as JAX asks
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.26",  # before, use_compression isn't known
        # sentencepiece's generated code refuses an older one, and sentencepiece doesn't ask for it.
        "protobuf>=7.36.1",
        "rouge-score>=0.1.2",
        "sacrebleu>=2.4",
        "safetensors>=0.5",
        "scikit-learn>=1.5",  # 1.3 can't be imported beside NumPy 2
        "scipy>=1.14",  # as JAX asks
        "sentencepiece>=0.2.3",  # 0.2.2 makes another file of the embedded vocabulary
        "seqio>=0.0.20",  # 0.0.19 asks for protobuf 3.20 and a second tensorflow-datasets
        "tensorboard>=2.20",
        "tensorflow>=2.20",  # 2.19 asks for a protobuf below 6
        "tensorflow-datasets>=4.9.6",  # 4.9.4 breaks on importlib_resources 5.0
        "tensorflow-text>=2.20",
        "tensorstore>=0.1.74",
        "tqdm>=4.60",
        "vl-convert-python>=1.9",  # carries Vega-Lite 6.4, which the report's page holds
    ],
    extras_require={
        # Orbax asks Google's client what kind of bucket a gs:// folder is in.
        "gcs": ["google-cloud-storage"],
        "test": [
            "beartype",
            "google-cloud-storage",
            "pytest",
            "pytest-xdist",
            "ruff",
            "websocket-client",  # talks to Chromium, where there is one
        ],
        # The TPU's compiler, for --dry_run --topology: the version that jax's extra "tpu" names.
        # (pip below 23.3 doesn't find an extra whose name has an underscore.)
        "tpu-compiler": ["libtpu==0.0.41.*"],
        # What T5X asks for beside this project; itself it is on no package index (docs/t5x.md).
        "t5x": ["cached_property", "fiddle>=0.3"],
        "reference": ["torch==2.13.0", "torchjd[full]", "transformers"],
    },
)
