"""Scores of an outage run are what a person would work out by hand, and the report shows them."""

import math
from html.parser import HTMLParser

import numpy as np
import pytest

from anyseg_ros.classes import CITYSCAPES_19
from anyseg_ros.evaluation.outage_run import (
    OutageRun,
    Output,
    nearest_ground_truth,
    reactions,
    score_stretches,
)
from anyseg_ros.evaluation.outages import Outage
from anyseg_ros.evaluation.report import Moment, film_strip, write_outage_report
from anyseg_ros.modality import Modality, parse_subset

CAMERA = Modality.CAMERA
ALL, BLIND = parse_subset("all"), parse_subset("depth+event+lidar")


def labels(value):
    return np.full((16, 32), value, np.uint8)


def output(received_s, used, value=0, latency_s=0.05):
    return Output(received_s - 0.05, received_s, labels(value), used, latency_s)


@pytest.fixture
def run():
    """Ten outputs a second; camera cut at 1 s, noticed at 1.3 s, back at 2 s, used again at 2.2 s."""
    outputs = []
    for i in range(30):
        t = round(0.1 * i + 0.05, 3)
        used = BLIND if 1.3 <= t < 2.2 else ALL
        if not 1.05 < t < 1.3:  # the gap while the anchor's loss goes unnoticed
            outputs.append(output(t, used, value=0 if t < 2 else 1))
    truth = {round(0.1 * i, 3): labels(0) for i in range(30)}
    return OutageRun(
        3.0, [Outage(CAMERA, 1.0, 2.0)], ALL, outputs, truth, dict.fromkeys(Modality, 0.3)
    )


def test_each_stretch_is_scored_by_what_was_received_in_it(run):
    before, during, after = score_stretches(run, CITYSCAPES_19)
    assert (before.alive, before.used) == ("camera+depth+event+lidar",) * 2
    assert during.alive == during.used == "depth+event+lidar"
    assert before.outputs == 10 and before.used_share == 1 and before.rate_hz == pytest.approx(10)
    assert during.outputs == 8 and during.used_share == pytest.approx(7 / 8)
    assert before.miou == during.miou == pytest.approx(100)
    assert after.miou == pytest.approx(0), "wrong labels must score nothing"
    assert during.longest_gap_s == pytest.approx(0.3)
    assert during.latency_median_ms == pytest.approx(50)


def test_reaction_times_run_from_the_cut_and_the_return(run):
    (reaction,) = reactions(run)
    assert reaction.last_used_after_cut_s == pytest.approx(0.05)
    assert reaction.used_again_s == pytest.approx(0.25)
    never = OutageRun(
        3.0, run.outages, ALL, [o for o in run.outputs if o.used == BLIND], {}, run.timeouts_s
    )
    assert math.isnan(reactions(never)[0].used_again_s)


def test_a_return_lasts_until_the_next_cut():
    """Used again only after the second outage: that is not how the first return was taken."""
    outages = [Outage(CAMERA, 1.0, 2.0), Outage(CAMERA, 2.1, 2.5)]
    outputs = [output(0.5, ALL), output(1.5, BLIND), output(2.6, ALL)]
    first, second = reactions(
        OutageRun(3.0, outages, ALL, outputs, {}, dict.fromkeys(Modality, 0.3))
    )
    assert math.isnan(first.used_again_s) and second.used_again_s == pytest.approx(0.1)


def test_latencies_and_masks_of_another_size():
    outputs = [output(0.1 * i, ALL, latency_s=0.01 * i) for i in range(21)]
    truth = {o.stamp_s: labels(0)[:8] for o in outputs}
    (only,) = score_stretches(
        OutageRun(3.0, [], ALL, outputs, truth, dict.fromkeys(Modality, 0.3)), CITYSCAPES_19
    )
    assert only.latency_median_ms == pytest.approx(100)
    assert only.latency_p95_ms == pytest.approx(190)
    assert only.outputs == 21 and only.scored == 0 and math.isnan(only.miou)


def test_a_silent_stretch_has_no_score_and_its_whole_length_as_gap(run):
    silent = OutageRun(
        3.0, run.outages, ALL, [o for o in run.outputs if o.received_s < 1], {}, run.timeouts_s
    )
    during = score_stretches(silent, CITYSCAPES_19)[1]
    assert during.outputs == 0 and during.used == "none" and math.isnan(during.miou)
    assert during.longest_gap_s == pytest.approx(1.05)


def test_ground_truth_is_the_nearest_within_tolerance():
    truth = {1.0: labels(1), 1.1: labels(2)}
    assert nearest_ground_truth(truth, 1.02)[0, 0] == 1
    assert nearest_ground_truth(truth, 1.09)[0, 0] == 2
    assert nearest_ground_truth(truth, 1.16) is None and nearest_ground_truth({}, 1.0) is None


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href") and not v.startswith("#")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_self_contained_and_shows_every_stretch(run, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (16, 32, 3)).astype(np.uint8)
    moments = [
        Moment(0.5, dict.fromkeys(ALL, picture), ALL, labels(0), labels(0)),
        Moment(1.5, {**dict.fromkeys(ALL, picture), CAMERA: None}, BLIND, labels(2), None),
    ]
    path = write_outage_report(
        tmp_path, run, score_stretches(run, CITYSCAPES_19), reactions(run), moments,
        CITYSCAPES_19, {"engine": "none <really>"},
    )  # fmt: skip
    page = _Page()
    page.feed(path.read_text())
    assert page.sources and all(s.startswith("data:image/") for s in page.sources)
    assert page.tags.count("svg") == 1 and "script" not in page.tags
    text = " ".join(page.text)
    assert "none <really>" in text, "facts must be escaped"
    assert text.count("no signal") == 1
    for name in ("road", "building"):
        assert name in text, "the legend names what the pictures show"
    assert page.tags.count("tr") == 1 + 3 + 1 + 1
    for name in ("timeline.png", "film_strip.png"):
        assert (tmp_path / name).stat().st_size > 1000
    assert path.stat().st_size < 1_000_000


def test_the_film_strip_has_a_column_a_sensor_and_two_more():
    picture = np.zeros((64, 128, 3), np.uint8)
    moment = Moment(0.0, dict.fromkeys(ALL, picture), ALL, np.zeros((64, 128), np.uint8), None)
    strip = film_strip([moment, moment], CITYSCAPES_19, width=128)
    assert strip.shape == (2 * 68, 6 * 132, 3)
