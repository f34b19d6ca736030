"""Errors of turning sensor data into modality images."""


class ModalityError(ValueError):
    """Sensor data or an encoding that cannot become a modality image; the message says why."""
