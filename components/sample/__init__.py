"""The `sample` step: conditions of each lane group, drawing, and the shards that groups fill."""
