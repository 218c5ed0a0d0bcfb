"""Installs mtl_t5x; versions known to work together are pinned in constraints.txt."""

from setuptools import find_packages, setup

setup(
    name="mtl_t5x",
    version="0.1.0",
    description="Multi-task T5 training in JAX with task conflict measured inside the train step.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mtl_t5x", "mtl_t5x.*"]),
    package_data={"mtl_t5x.tasks.mini": ["*.model"]},
    install_requires=[
        "absl-py",
        "clu",
        "flax>=0.12",
        "gin-config",
        "importlib_resources",  # tensorflow-datasets imports it and doesn't ask for it
        # jaxlib 0.10.2 computes wrong numbers on CPU: a reduce fused with a batched product whose
        # right side is broadcast (tests/gradients/probes_test.py holds the reproducer).
        "jax>=0.10,!=0.10.2",
        "jaxlib>=0.10,!=0.10.2",
        "jaxtyping",
        "matplotlib",
        "ml-collections",
        "numpy",
        "optax",
        "orbax-checkpoint",
        "rouge-score",
        "sacrebleu",
        "scikit-learn",
        "scipy",
        "sentencepiece>=0.2.3",
        "seqio",
        "tensorboard",
        "tensorflow",
        "tensorflow-datasets",
        "tensorflow-text",
        "tqdm",
    ],
    extras_require={
        # Orbax asks Google's client what kind of bucket a gs:// folder is in.
        "gcs": ["google-cloud-storage"],
        "test": ["beartype", "google-cloud-storage", "pytest", "pytest-xdist", "ruff"],
        "reference": ["safetensors", "torch==2.13.0", "torchjd", "transformers"],
    },
)
