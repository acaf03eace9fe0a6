"""The contract between components and what runs them: types, registry, settings, fingerprints, lineage."""
