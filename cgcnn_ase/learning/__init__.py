"""A potential that asks a reference calculator where it does not know, and learns from the answers."""
