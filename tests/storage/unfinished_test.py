"""What an evaluation has scored: kept between starts, under the same settings alone."""

import logging
import math

from etils import epath

from mtl_t5x.storage.unfinished import FILE, Unfinished, forget


def test_scores_are_kept_by_split_and_task(tmp_path):
    folder = epath.Path(tmp_path)
    first = Unfinished(folder, {"step": 3, "lengths": (1, 2)})
    assert first.read("test") == {}
    first.add("test", "cola", {"accuracy": 100 / 3, "unparsed": 2})
    first.add("validation", "cola", {"loss": math.inf})
    first.add("test", "rte", {"accuracy": 0.0})
    again = Unfinished(folder, {"step": 3, "lengths": (1, 2)})
    assert again.read("test") == {
        "cola": {"accuracy": 100 / 3, "unparsed": 2},
        "rte": {"accuracy": 0.0},
    }
    assert again.read("validation") == {"cola": {"loss": math.inf}}
    forget(folder)
    assert again.read("test") == {} and not list(tmp_path.iterdir())
    forget(folder)


def test_scores_under_other_settings_are_dropped(tmp_path):
    folder = epath.Path(tmp_path)
    Unfinished(folder, {"step": 3}).add("test", "cola", {"accuracy": 1.0})
    other = Unfinished(folder, {"step": 4})
    assert other.read("test") == {}
    other.add("test", "rte", {"accuracy": 2.0})
    assert other.read("test") == {"rte": {"accuracy": 2.0}}
    assert Unfinished(folder, {"step": 3}).read("test") == {}


def test_a_file_that_is_no_record_is_said_and_replaced(tmp_path, caplog):
    earlier = Unfinished(epath.Path(tmp_path), {"step": 3})
    for damaged in ("", '{"settings": {"step": 3}', '["cola"]', '{"settings": {"step": 3}}'):
        (tmp_path / FILE).write_text(damaged)
        with caplog.at_level(logging.WARNING, logger="mtl_t5x"):
            assert earlier.read("test") == {}
        assert f"{FILE} can't be read, and every task is evaluated" in caplog.text
        caplog.clear()
    earlier.add("test", "cola", {"accuracy": 1.0})
    assert earlier.read("test") == {"cola": {"accuracy": 1.0}}
