"""The synthetic street: scenes, sensors, weather and failures, rendered with MuJoCo."""

import os

# MuJoCo picks its OpenGL back end on import; EGL needs no display.
os.environ.setdefault("MUJOCO_GL", "egl")
