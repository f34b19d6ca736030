"""What healthy sensors see of a made scene, with a sensor's noise."""

import numpy as np

from anyseg_ros.modalities import CameraFrame, DepthFrame, EventPacket, LidarScan

RANDOM = np.random.default_rng(7)


def scene(height=240, width=320):
    """A smooth picture with edges, float 0..1."""
    y, x = np.mgrid[:height, :width]
    smooth = 0.5 + 0.3 * np.sin(x / 37) * np.cos(y / 23)
    return np.where((x // 60 + y // 50) % 2 == 0, smooth, 0.6 * smooth)


def camera(noise=1.0, gain=255.0):
    picture = scene()[..., None] * gain * np.array([0.9, 1.0, 0.8])
    picture = picture + RANDOM.normal(0, noise, picture.shape)
    return CameraFrame(np.clip(np.rint(picture), 0, 255).astype(np.uint8))


def depth(noise=0.002):
    metres = (2 + 20 * scene()) * (1 + RANDOM.normal(0, noise, (240, 320)))
    metres[:60] = 0
    return DepthFrame(metres.astype(np.float32))


def lidar(keep=slice(None), noise=0.01):
    azimuth = np.deg2rad(np.arange(-180, 180, 0.5))[:, None]
    elevation = np.deg2rad(np.linspace(-20, -3, 16))[None]
    distance = np.minimum(1.9 / -np.sin(elevation), 14 + 8 * np.sin(3 * azimuth))
    distance = distance + RANDOM.normal(0, noise, distance.shape)
    points = distance[..., None] * np.stack(
        np.broadcast_arrays(
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ),
        -1,
    )
    points = points[keep].reshape(-1, 3).astype(np.float32)
    return LidarScan(points, np.full(len(points), 0.5, np.float32))


FIRING_ORDER = [ring // 2 + 8 * (ring % 2) for ring in range(16)]


def orchard(fog=0.0, step_deg=0.2):
    """Between two rows of trees, [N, 16, 3] by azimuth and ring.

    Below is the ground; above are leaves, a degree wide and one behind the other.

    Args:
        fog: share of the beams that meet a drop.
        step_deg: between two shots.
    """
    azimuth = np.deg2rad(np.arange(0, 360, step_deg))[:, None]
    elevation = np.deg2rad(np.linspace(-15, 15, 16))[None]
    trees = 2 / np.maximum(np.abs(np.sin(azimuth)), 0.2)
    behind = np.repeat(RANDOM.exponential(1.0, (360, 16)), round(1 / step_deg), axis=0)
    ground = 1.8 / np.maximum(-np.sin(elevation), 0.1)
    distance = np.where(elevation < -0.03, ground, trees * (1 + behind))
    drops = RANDOM.random(distance.shape) < fog
    distance = np.where(drops, 0.8 + RANDOM.exponential(4.5, distance.shape), distance)
    distance = distance + RANDOM.normal(0, 0.015, distance.shape)
    directions = np.stack(
        np.broadcast_arrays(
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ),
        -1,
    )
    return (distance[..., None] * directions).astype(np.float32)


def events(count, end_ns, uniform=False, size=(640, 480)):
    if uniform:
        x, y = RANDOM.integers(0, size[0], count), RANDOM.integers(0, size[1], count)
    else:  # edges
        x = np.clip(RANDOM.choice([80, 300, 310, 500], count) + RANDOM.normal(0, 6, count), 0, 639)
        y = RANDOM.integers(100, 400, count)
    x, y = x.astype(np.uint16), y.astype(np.uint16)
    if count:  # the sensor's size is learned from what it has shown
        x[0], y[0] = size[0] - 1, size[1] - 1
    times = np.linspace(end_ns - 9_000_000, end_ns, count).astype(np.int64)
    return EventPacket(x, y, RANDOM.integers(0, 2, count).astype(np.uint8), times)
