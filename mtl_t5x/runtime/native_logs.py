"""What the C++ libraries below JAX and TensorFlow print."""

import os


def quiet() -> None:
    """Leaves fatal messages alone of theirs; to be called before either library is imported.

    Their errors reach Python as exceptions. What they print besides hides what is told: for each
    compiled program that was kept, XLA warns of instructions that every CPU of the kind has not,
    the compiler's own tuning flags among them. Several processes need theirs to name a lost one.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
