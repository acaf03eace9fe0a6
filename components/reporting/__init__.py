"""What `report` is made of: the results record, pictures, charts and the page's templates."""
