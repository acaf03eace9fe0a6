"""The `ingest` step: layouts, the plan of which image goes into which shard, and writing shards."""
