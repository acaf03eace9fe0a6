"""Weight files: saving, loading, published weights and other code bases' formats."""
