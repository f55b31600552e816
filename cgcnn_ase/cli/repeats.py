"""How often a cell is repeated, as people type it."""

#: along all three vectors, along each, or not said
Repeats = int | tuple[int, int, int] | None


def repeats(text: str | None) -> Repeats:
    """``3`` or ``5x2x1``, also with commas or spaces; None as it is.

    Raises
    ------
    ValueError
        If it is neither one whole number nor three.
    """
    if text is None:
        return None
    joined = text.lower().replace(",", "x")
    parts = joined.split("x") if "x" in joined else joined.split()
    if len(parts) not in (1, 3) or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--supercell {text}: give one whole number, or three as in 5x2x1")
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1], numbers[2])
