"""The archive of structures inside a structure-set node: one zip of plain arrays, read row by row."""
