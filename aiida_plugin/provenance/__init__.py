"""Questions to the provenance graph, and records of what runs outside AiiDA's processes."""
