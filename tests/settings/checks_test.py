"""What each check lets pass, and what it says."""

import math

import numpy as np
import pytest

from mtl_t5x.settings import checks


@pytest.mark.parametrize("value", [1, 7, np.int32(3), 2**40])
def test_whole_numbers_pass(value):
    assert checks.whole("A", value, 1) is None


@pytest.mark.parametrize("value", [0, -1, 1.0, True, None, "1", math.nan])
def test_what_is_no_whole_number(value):
    said = checks.whole("A", value, 1, "steps")
    assert said == f"A = {value!r}: write a whole number, 1 or more (steps)"
    assert checks.whole("A", None, 1, none=True) is None
    assert checks.whole("A", 5, 0, most=4) == "A = 5: write a whole number, from 0 to 4"


@pytest.mark.parametrize("value", [-0.1, 1, math.nan, math.inf, True, "0.5", None])
def test_what_is_no_number_below_one(value):
    assert "write a number, 0 or more and below 1" in checks.number("A", value, below=1)
    assert checks.number("A", 0.5, below=1) is checks.number("A", None, none=True) is None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (checks.flag("A", 1), "A = 1: write True or False"),
        (checks.text("A", "", "a path"), "A = '': write a text in quotes (a path)"),
        (checks.choice("A", "bf16", ("float32", "bfloat16")), "Did you mean 'bfloat16'?"),
        (checks.a("A", 3, str, "a word"), "A = 3: write a word"),
        (checks.expressions("A", {"x": "("}), "'(' of 'x' is no regular expression"),
        (checks.expressions("A", {"x": 3}), "write a dictionary of texts"),
        (checks.lengths({"inputs": 0}), "TASK_FEATURE_LENGTHS['inputs'] = 0"),
    ],
)
def test_what_they_say(fault, said):
    assert said in fault


def test_what_they_let_pass():
    assert checks.flag("A", False) is checks.text("A", "x", "") is None
    assert checks.choice("A", "b", "abc") is checks.a("A", "x", str, "") is None
    assert checks.expressions("A", {"x": ".*"}) is checks.lengths({"inputs": 3}) is None


def test_all_faults_are_told_at_once():
    checks.check(None, None)
    with pytest.raises(checks.SettingsError) as caught:
        checks.check(None, "A is wrong", None, "B is wrong")
    assert caught.value.faults == ("A is wrong", "B is wrong")
    assert str(caught.value) == "A is wrong\nB is wrong"


def test_names_that_are_near():
    known = ["TRAIN_STEPS", "BATCH_SIZE", "EVAL_BATCH_SIZE"]
    assert checks.nearest("train_step", known) == "TRAIN_STEPS"
    assert checks.nearest("BATCHSIZE", known) == "BATCH_SIZE"
    assert checks.nearest("COLOUR", known) is None
