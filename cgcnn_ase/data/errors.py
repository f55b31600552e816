"""What is wrong with a data set."""


class DatasetError(ValueError):
    """A data set that cannot be read as it is; the message names the file and what is wrong."""
