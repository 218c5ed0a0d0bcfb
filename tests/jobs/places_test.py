"""Where workers run: cores and devices shared out, and what can't be."""

import json
import os
import subprocess
import sys

import pytest

from mtl_t5x.jobs import places


@pytest.fixture
def cores(monkeypatch):
    """A machine of six cores and plenty of memory, on which JAX takes the CPU."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 6, 7})
    monkeypatch.setattr(places, "_memory", lambda: 2**40)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.fixture
def devices(monkeypatch):
    """Sets what JAX finds."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for name in ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"):
        monkeypatch.delenv(name, raising=False)

    def found(platform: str, count: int) -> None:
        answer = subprocess.CompletedProcess((), 0, json.dumps([platform, count]) + "\n", "")
        monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)

    return found


@pytest.mark.parametrize(
    ("jobs", "wanted"),
    [
        (1, [(0, 1, 2, 3, 6, 7)]),
        (2, [(0, 1, 2), (3, 6, 7)]),
        (4, [(0,), (1,), (2,), (3,)]),  # of one size: results don't depend on the worker
        (None, [(0,), (1,), (2,), (3,), (6,), (7,)]),
    ],
)
def test_cores_are_shared_out(jobs, wanted, cores):
    assert [place.cores for place in places.plan(jobs)] == wanted


def test_by_default_as_many_as_help_and_find_memory(cores, monkeypatch):
    assert len(places.plan(helpful=3)) == 3
    monkeypatch.setattr(places, "_memory", lambda: 7 * 2**30)
    assert len(places.plan()) == 2
    monkeypatch.setattr(places, "_memory", lambda: 2**30)
    assert len(places.plan()) == 1


def test_more_workers_than_help():
    assert places.helpful([8, 1, 1]) == 2
    assert places.helpful([1, 1, 1]) == 3
    assert places.helpful([]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"jobs": 0}, "--jobs=0: give 1 or more"),
        ({"jobs": -2}, "--jobs=-2: give 1 or more"),
        ({"jobs": 7}, "--jobs=7: every run needs a core of its own, and there are 6 here"),
        ({"devices_per_run": 0}, "--devices_per_run=0: give 1 or more"),
        ({"devices_per_run": 1}, "for accelerators, and JAX finds none here"),
        ({"devices": ["0"]}, "for accelerators, and JAX finds none here"),
        ({"devices": ["0", "1", "0"]}, "--devices=0,1,0 names the device 0 twice"),
    ],
)
def test_what_cores_can_not_give_is_refused(arguments, message, cores):
    with pytest.raises(ValueError, match=message):
        places.plan(**arguments)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({}, ["0", "1", "2", "3"]),
        ({"devices_per_run": 2}, ["0,1", "2,3"]),
        ({"jobs": 2}, ["0,1", "2,3"]),
        ({"jobs": 1}, ["0,1,2,3"]),
        ({"jobs": 1, "devices_per_run": 1}, ["0"]),
        ({"devices": ["3", "1"]}, ["3", "1"]),
    ],
)
def test_gpus_are_shared_out(arguments, wanted, devices):
    devices("gpu", 4)
    found = places.plan(**arguments)
    assert [place.environment for place in found] == [{"CUDA_VISIBLE_DEVICES": w} for w in wanted]
    assert all(place.cores == () for place in found)


def test_names_of_visible_gpus_are_kept(devices, monkeypatch):
    devices("gpu", 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-ab")
    names = [place.environment["CUDA_VISIBLE_DEVICES"] for place in places.plan()]
    assert names == ["5", "GPU-ab"]
    with pytest.raises(ValueError, match="--devices names '0'; there are 5, GPU-ab"):
        places.plan(devices=["0"])


def test_tpu_chips_are_slices_of_their_own(devices):
    devices("tpu", 4)
    first, second = (place.environment for place in places.plan(devices_per_run=2))
    assert (first["TPU_VISIBLE_CHIPS"], second["TPU_VISIBLE_CHIPS"]) == ("0,1", "2,3")
    for environment in (first, second):
        assert environment["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "1,2,1"
        assert environment["TPU_PROCESS_BOUNDS"] == "1,1,1"
        assert environment["TPU_PROCESS_ADDRESSES"].endswith(environment["TPU_PROCESS_PORT"])
    assert first["TPU_PROCESS_PORT"] != second["TPU_PROCESS_PORT"]


@pytest.mark.parametrize(
    ("platform", "arguments", "message"),
    [
        ("gpu", {"jobs": 5}, "asks for 5 devices, and there are 4"),
        ("gpu", {"jobs": 3, "devices_per_run": 2}, "asks for 6 devices, and there are 4"),
        ("gpu", {"devices_per_run": 5}, "asks for 5 devices, and there are 4"),
        ("gpu", {"devices": ["4"]}, "--devices names '4'; there are 0, 1, 2, 3"),
        ("gpu", {"devices": ["1", "1"]}, "--devices=1,1 names the device 1 twice"),
        ("tpu", {"devices_per_run": 3}, "3 TPU chips for a run: .* one of 1, 2, 4, 8"),
    ],
)
def test_what_devices_can_not_give_is_refused(platform, arguments, message, devices):
    devices(platform, 4)
    with pytest.raises(ValueError, match=message):
        places.plan(**arguments)


def test_jax_that_does_not_start_is_told(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    with pytest.raises(ValueError, match="JAX doesn't start: .*nonsense"):
        places.plan()


def test_jax_is_asked_in_another_process(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    asked = []
    run = subprocess.run

    def note(command, **kwargs):
        asked.append(command[0])  # with a JAX that finds no accelerator, whatever is here
        return run(command, **{**kwargs, "env": {**os.environ, "JAX_PLATFORMS": "cpu"}})

    monkeypatch.setattr(subprocess, "run", note)
    assert len(places.plan(1)) == 1
    assert asked == [sys.executable]


def test_workers_on_cores_ask_for_huge_pages(cores, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert places.plan(1)[0].environment == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
