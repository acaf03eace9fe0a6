"""Component `statistics`: its shards and the work on one shard."""
