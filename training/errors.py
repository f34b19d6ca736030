"""What is wrong with a user's settings, apart from what is wrong with the program."""


class SettingsError(ValueError):
    """Settings that cannot be trained with; the message names the setting and what was expected."""
