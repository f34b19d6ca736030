"""What must always hold, on arrival sequences that hypothesis makes up."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from sync_reference import MS, RIG, Arrival, Player, S, Sensor, make_arrivals, rig_config

from anyseg_ros.modality import Modality
from anyseg_ros.sync import StreamConfig

EXAMPLES = 3 * settings.default.max_examples // 2
MANY = settings(max_examples=EXAMPLES)

sensors = st.builds(
    Sensor,
    period_ms=st.sampled_from([20.0, 1000 / 30, 50.0, 100.0, 200.0, 250.0]),
    phase_ms=st.integers(0, 250).map(float),
    latency_ms=st.sampled_from([1.0, 10.0, 40.0, 120.0, 300.0]),
    jitter_ms=st.sampled_from([0.0, 3.0, 20.0, 80.0]),
    loss=st.sampled_from([0.0, 0.1, 0.5]),
    duplicates=st.sampled_from([0.0, 0.2]),
    stragglers=st.sampled_from([0.0, 0.1, 0.4]),
    unusable=st.sampled_from([0.0, 0.0, 0.1, 0.6, 1.0]),
)

configs = st.builds(
    lambda timeout, tolerance, age, rate, window: {
        m: StreamConfig(timeout, tolerance, age, rate, m is Modality.EVENT, window)
        for m in Modality
    },
    st.sampled_from([0.15, 0.5, 1.0]),
    st.sampled_from([0.0, 0.01, 0.05, 0.1]),
    st.sampled_from([0.03, 0.1, 0.3, 1.0]),
    st.sampled_from([None, 10.0]),
    st.sampled_from([0.05, 0.1]),
)

cuts = st.dictionaries(
    st.sampled_from(list(Modality)),
    st.lists(
        st.tuples(st.floats(0, 3), st.floats(0.05, 2)).map(lambda c: (c[0], c[0] + c[1])),
        max_size=2,
    ),
)

rigs = st.dictionaries(st.sampled_from(list(Modality)), sensors, min_size=1)

max_waits = st.sampled_from([0.0, 0.02, 0.05, 0.2])


@MANY
@given(configs, rigs, cuts, max_waits, st.permutations(list(Modality)), st.integers(0, 999))
def test_promises_hold_with_jitter_loss_duplicates_reordering_and_outages(
    config, rig, cut, max_wait, priority, seed
):
    player = Player(config, max_wait, priority)
    player.play(make_arrivals(rig, 4.0, cut, seed), until_ns=60 * S)
    player.check_books()


@MANY
@given(
    rigs,
    cuts,
    st.lists(
        st.tuples(
            st.floats(0.1, 4),
            st.sampled_from([-20.0, -3.0, -0.7, -0.3, 0.2, 0.4, 3.0, 1e6]),
            st.sets(st.sampled_from(list(Modality)), min_size=1),
            st.booleans(),
        ),
        max_size=3,
    ),
    st.integers(0, 999),
)
def test_promises_hold_when_stamps_or_clocks_jump(rig, cut, jumps, seed):
    arrivals = make_arrivals(rig, 4.0, cut, seed)
    for at_s, by_s, keys, once in jumps:
        arrivals = jump(arrivals, at_s, by_s, keys, once)
    player = Player(rig_config(), believable=False)
    player.play(arrivals)
    player.check_books()


def jump(arrivals, at_s, by_s, keys, once):
    """Shift stamps of some streams from a time on, or only one message's."""
    shifted = []
    for a in arrivals:
        hit = a.key in keys and a.receipt_ns >= 50 * S + at_s * S
        shifted.append(Arrival(a.receipt_ns, a.key, a.stamp_ns + round(by_s * S)) if hit else a)
        if hit and once:
            keys = keys - {a.key}
    return shifted


@MANY
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 30), st.integers(0, 700), st.integers(-3000, 0)),
            st.sampled_from(list(Modality)),
            st.one_of(st.integers(-60, 60), st.integers(-900, 900), st.integers(-(10**9), 10**9)),
        ),
        max_size=150,
    ),
    configs,
    max_waits,
    st.sampled_from([1, 3, 256]),
)
def test_promises_hold_for_anything_at_all(steps, config, max_wait, buffer_size):
    """Arbitrary stamps at arbitrary times, the clock stepping back included."""
    player = Player(config, max_wait, believable=False, buffer_size=buffer_size)
    now = 10 * S
    for step_ms, key, offset_ms in steps:
        if step_ms >= 0:
            now += step_ms * MS
            player.poll_until(now)
            player.add(Arrival(now, key, now + offset_ms * MS))
        else:
            now = max(now + step_ms * MS, 0)
            jumped = step_ms < -100
            epoch = player.sync.epoch
            player._check(player.sync.poll(now), now, player.sync.anchor)
            if player.sync.epoch != epoch:
                assert jumped
                player.believed = dict.fromkeys(player.believed, now)
                player.in_buffer = {m: {} for m in config}
                player.used.clear()
                player.seen.clear()
            else:
                # A small step back is levelled out by waiting for the clock to come back.
                now -= step_ms * MS
    player.check_books()


@settings(max_examples=40)
@given(rigs, cuts, st.integers(0, 999))
def test_same_calls_give_same_sets(rig, cut, seed):
    arrivals = make_arrivals(rig, 3.0, cut, seed)
    first = Player(rig_config()).play(arrivals)
    second = Player(rig_config()).play(arrivals)
    assert first == second


@MANY
@given(
    st.fixed_dictionaries(
        {
            m: st.builds(
                Sensor,
                period_ms=st.just(RIG[m].period_ms),
                phase_ms=st.floats(0, 99),
                latency_ms=st.floats(1, 60),
                jitter_ms=st.floats(0, 15),
            )
            for m in Modality
        }
    ),
    st.sets(st.sampled_from(list(Modality)), min_size=1, max_size=3),
    st.floats(2, 3),
    st.floats(0.7, 2),
    st.integers(0, 999),
)
def test_output_never_gaps_longer_than_promised(rig, cut, at_s, for_s, seed):
    """2.5 periods of what led, as long as it is behind the others, and a period of another."""
    window = (at_s, at_s + for_s)
    arrivals = make_arrivals(rig, 6.0, {key: [window] for key in cut}, seed)
    outputs = Player(rig_config()).play(arrivals)
    anchor = min(m for m in Modality if m not in cut)
    latencies = [s.latency_ms + s.jitter_ms for s in rig.values()]
    bound = (250 + max(latencies) - min(latencies) + RIG[anchor].period_ms) * MS
    if anchor is Modality.EVENT:
        # Events lead when all others are known to be silent, and these have died within a period.
        bound += 100 * MS
    during = [o for o in outputs if 50 + 1.5 <= o.now_ns / S <= 50 + 5.8]
    gaps = [b.now_ns - a.now_ns for a, b in itertools.pairwise(during)]
    # Jitter makes a period longer by itself.
    assert max(gaps) <= bound + max(s.jitter_ms for s in rig.values()) * MS
