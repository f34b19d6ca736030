"""AnySeg ROS: semantic segmentation that survives the loss of any subset of a robot's sensors."""

__version__ = "0.1.0"
