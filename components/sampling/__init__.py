"""Parts of `sample`: what is asked of each lane group, drawing it, and the shards that groups make up."""
