"""What `statistics` does with one shard, and how its shards are cut."""
