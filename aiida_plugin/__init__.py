"""AiiDA plugin: predictions, structures and calculations as nodes of one provenance graph."""
