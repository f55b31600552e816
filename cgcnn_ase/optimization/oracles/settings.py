"""The options of the oracles, and settings by pydantic with messages in words."""
