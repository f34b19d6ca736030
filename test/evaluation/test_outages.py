"""Timetables are read strictly and cut into the right stretches."""

import pytest

from anyseg_ros.evaluation.outages import (
    Outage,
    OutageError,
    Stretch,
    alive_at,
    load_outages,
    outages_from_data,
    stretches,
)
from anyseg_ros.modality import Modality, parse_subset

CAMERA, LIDAR = Modality.CAMERA, Modality.LIDAR


def test_stretches_are_cut_where_a_sensor_goes_or_comes():
    table = [Outage(CAMERA, 2, 5), Outage(LIDAR, 4, 9)]
    assert stretches(table, 8.0) == [
        Stretch(0, 2, parse_subset("all")),
        Stretch(2, 4, parse_subset("depth+event+lidar")),
        Stretch(4, 5, parse_subset("depth+event")),
        Stretch(5, 8.0, parse_subset("camera+depth+event")),
    ]


def test_touching_outages_of_one_sensor_are_one_stretch():
    table = [Outage(CAMERA, 1, 2), Outage(CAMERA, 2, 3)]
    assert [s.alive for s in stretches(table, 4.0)] == [
        parse_subset("all"),
        parse_subset("depth+event+lidar"),
        parse_subset("all"),
    ]


def test_a_fault_that_leaves_a_sensor_usable_kills_nothing():
    event = Modality.EVENT
    table = [Outage(CAMERA, 1, 2, "slow"), Outage(event, 1, 2, "empty"), Outage(LIDAR, 1, 2, "nan")]
    assert alive_at(table, 1.5) == parse_subset("camera+depth+event")


def test_an_outage_begins_at_from_and_ends_before_to():
    table = [Outage(CAMERA, 1, 2)]
    assert CAMERA not in alive_at(table, 1.0) and CAMERA in alive_at(table, 2.0)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"sensor": "radar", "from_s": 0, "to_s": 1}, "outage 1: unknown modality 'radar'"),
        ({"sensor": "camera", "from_s": 2, "to_s": 1}, "must be >= 0 and < to_s"),
        ({"sensor": "camera", "from_s": -1, "to_s": 1}, "must be >= 0"),
        ({"sensor": "camera", "from_s": "soon", "to_s": 1}, "soon"),
        ({"sensor": "camera", "from_s": 0}, "must have sensor, from_s and to_s"),
        ({"sensor": "camera", "from_s": 0, "to_s": 1, "kind": "loud"}, "unknown kind 'loud'"),
        (
            {"sensor": "lidar", "from_s": 0, "to_s": 1, "kind": "saturated"},
            "'saturated' does not apply to lidar; expected silent, slow",
        ),
        ({"sensor": "camera", "from_s": 0, "to_s": 1, "until": 2}, "unknown until"),
        ({"sensor": "camera", "from_s": float("nan"), "to_s": 1}, "must be >= 0"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(entry, said):
    with pytest.raises(OutageError, match=said):
        outages_from_data({"outages": [entry]})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OutageError, match=r"none\.yaml"):
        load_outages(tmp_path / "none.yaml")
