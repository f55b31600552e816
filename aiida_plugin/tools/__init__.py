"""Questions to the provenance graph, and recording what runs outside of AiiDA."""
