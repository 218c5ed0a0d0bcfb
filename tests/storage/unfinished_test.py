"""What an evaluation has scored: kept between starts, under the same settings alone."""

import logging
import math

from etils import epath

from mtl_t5x.storage.unfinished import FILE, Unfinished, forget

OF = {"cola": "c", "rte": "r"}


def test_scores_are_kept_by_split_and_task(tmp_path):
    folder = epath.Path(tmp_path)
    first = Unfinished(folder, {"step": 3, "beams": (1, 2)})
    assert first.read("test", OF) == {}
    first.add("test", "cola", "c", {"accuracy": 100 / 3, "unparsed": 2})
    first.add("validation", "cola", "c", {"loss": math.inf})
    first.add("test", "rte", "r", {"accuracy": 0.0})
    again = Unfinished(folder, {"step": 3, "beams": (1, 2)})
    assert again.read("test", OF) == {
        "cola": {"accuracy": 100 / 3, "unparsed": 2},
        "rte": {"accuracy": 0.0},
    }
    assert again.read("validation", OF) == {"cola": {"loss": math.inf}}
    forget(folder)
    assert again.read("test", OF) == {} and not list(tmp_path.iterdir())
    forget(folder)


def test_scores_under_other_settings_are_dropped(tmp_path):
    folder = epath.Path(tmp_path)
    Unfinished(folder, {"step": 3}).add("test", "cola", "c", {"accuracy": 1.0})
    other = Unfinished(folder, {"step": 4})
    assert other.read("test", OF) == {}
    other.add("test", "rte", "r", {"accuracy": 2.0})
    assert other.read("test", OF) == {"rte": {"accuracy": 2.0}}
    assert Unfinished(folder, {"step": 3}).read("test", OF) == {}


def test_scores_of_a_task_that_is_another_one_are_dropped(tmp_path):
    earlier = Unfinished(epath.Path(tmp_path), {"step": 3})
    earlier.add("test", "cola", "c", {"accuracy": 1.0})
    earlier.add("test", "rte", "r", {"accuracy": 2.0})
    assert earlier.read("test", OF | {"cola": "d"}) == {"rte": {"accuracy": 2.0}}
    assert earlier.read("test", {"rte": "r"}) == {"rte": {"accuracy": 2.0}}
    earlier.add("test", "cola", "d", {"accuracy": 3.0})
    assert earlier.read("test", OF | {"cola": "d"})["cola"] == {"accuracy": 3.0}


def test_scores_of_what_has_no_fingerprint_are_not_kept(tmp_path):
    earlier = Unfinished(epath.Path(tmp_path), {"step": 3})
    earlier.add("test", "own", None, {"accuracy": 1.0})
    assert earlier.read("test", {"own": None}) == {} and not list(tmp_path.iterdir())


def test_a_file_that_is_no_record_is_said_and_replaced(tmp_path, caplog):
    earlier = Unfinished(epath.Path(tmp_path), {"step": 3})
    for damaged in ("", '{"settings": {"step": 3}', '["cola"]', '{"settings": {"step": 3}}'):
        (tmp_path / FILE).write_text(damaged)
        with caplog.at_level(logging.WARNING, logger="mtl_t5x"):
            assert earlier.read("test", OF) == {}
        assert f"{FILE} can't be read, and every task is evaluated" in caplog.text
        caplog.clear()
    earlier.add("test", "cola", "c", {"accuracy": 1.0})
    assert earlier.read("test", OF) == {"cola": {"accuracy": 1.0}}
