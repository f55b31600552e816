"""Is a crystal stable? Energy above the hull of competing phases, with its probability."""
