"""The devices of a TPU slice that isn't there: its compiler runs on any host, from libtpu alone."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from mtl_t5x.runtime import tpu_compiler

# Generations and, of each, a slice; the numbers are chips along the axes of the torus.
KNOWN = ("v4:2x2x2", "v5e:2x4", "v5p:2x2x2", "v6e:2x4")
# libtpu shall neither ask the cloud what this host is, and complain, nor lock others out.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
INSTALL = "pip install -e '.[tpu-compiler]' brings the libtpu that fits this jax"


def devices(name: str, num_slices: int = 1) -> Sequence[jax.Device]:
    """The devices of `num_slices` slices called `name`, as v5e:2x4, to compile for.

    Raises:
      ValueError: no libtpu, one that doesn't fit jax, or a name that it doesn't know.
    """
    _check_compiler()
    for setting, value in _ENVIRONMENT.items():
        os.environ.setdefault(setting, value)
    names = (
        "Names are a generation and the chips along each axis of a slice that hosts make up, as "
        f"{', '.join(KNOWN)}, v5e:16x16"
    )
    if not name:
        raise ValueError(f"--topology= names no devices. {names}")
    tpu_compiler.ask()
    several = {"num_slices": num_slices} if num_slices > 1 else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **several)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology={name}: {str(error).splitlines()[0]}. {names}") from error
    return found.devices


def _check_compiler() -> None:
    try:
        version = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"--topology needs the TPU's compiler, libtpu: {INSTALL}") from None
    wanted = [
        requirement.split(";")[0].split("==")[1].strip().removesuffix(".*")
        for requirement in importlib.metadata.requires("jax") or ()
        if requirement.startswith("libtpu==")
    ]
    if wanted and not version.startswith(wanted[0]):
        raise ValueError(
            f"libtpu {version} doesn't fit jax {jax.__version__}, which asks for {wanted[0]}: "
            f"{INSTALL}"
        )
