"""The command ``aiida-cgcnn``, and the commands that it adds to ``verdi data``."""
