"""The `report` step: the results record, pictures, charts and the page."""
